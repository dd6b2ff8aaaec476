"""A folder is served as the bucket `photos` on loopback, with one object refused and one slow.

`python -m tests.light.clustered.bucket FOLDER PORT` needs moto and flask; it says `ready`, and at
SIGTERM how many pages of listings were asked for.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

KEY = "good"  # any other is refused
REFUSED, SLOW, SLOW_S = "a/007.png", "b/008.png", 5.0


class Refusing:
    """moto's server, with an object that is refused, a slow one, and keys that count."""

    def __init__(self, serve):
        self.serve, self.n_pages, self.is_open = serve, 0, True

    def __call__(self, environ, start_response):
        path, said = environ["PATH_INFO"], environ.get("HTTP_AUTHORIZATION", "")
        if f"Credential={KEY}/" not in said:
            return refuse(start_response, "InvalidAccessKeyId")
        if path.endswith(REFUSED) and not self.is_open:
            return refuse(start_response, "AccessDenied")
        if path.endswith(SLOW) and environ["REQUEST_METHOD"] == "GET":
            time.sleep(SLOW_S)
        self.n_pages += "list-type=2" in environ["QUERY_STRING"]
        return self.serve(environ, start_response)


def refuse(start_response, code):
    body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
    headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
    start_response("403 Forbidden", headers)
    return [body]


@contextmanager
def serve_bucket(folder, pages):
    """Serves a folder's `album`; yields the variables that lead there; then fills in `pages`.

    Pages of listings hold 50 names.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    root = Path(__file__).resolve().parents[3]
    server = subprocess.Popen(
        [sys.executable, "-m", __spec__.name, str(folder), str(port)],
        env={**os.environ, "PYTHONPATH": str(root), "MOTO_S3_DEFAULT_MAX_KEYS": "50"},
        cwd=root,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout.readline() == "ready\n"
        yield {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": "x",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        }
    finally:
        server.terminate()
        pages.append(server.communicate()[0].strip())


def main(folder, port):
    import boto3
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log_request(self, *_):
            pass

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # in threads to come, too
    app = Refusing(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", int(port), app, threaded=True, request_handler=Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    own = {"endpoint_url": f"http://127.0.0.1:{port}", "region_name": "us-east-1"}
    s3 = boto3.client("s3", aws_access_key_id=KEY, aws_secret_access_key="x", **own)
    s3.create_bucket(Bucket="photos")
    for path in sorted(each for each in (Path(folder) / "album").rglob("*") if each.is_file()):
        name = str(path.relative_to(folder))
        s3.put_object(Bucket="photos", Key=name, Body=path.read_bytes())
    app.is_open = False
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    signal.sigwait({signal.SIGTERM})
    sys.stdout.write(f"{app.n_pages}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
