"""The certificates that are trusted become a TLS context; the environment may name others."""

import os
import ssl
from pathlib import Path

from tinyv_cli.errors import UsageError, describe_os_error


def make_context() -> ssl.SSLContext:
    """Makes a context that trusts the system's certificates, or those of the environment.

    OpenSSL passes over a SSL_CERT_FILE or SSL_CERT_DIR that is not there, and then trusts nobody.

    Raises:
        UsageError: SSL_CERT_FILE, SSL_CERT_DIR or SSLKEYLOGFILE names nothing that can be used.
    """
    name = "SSLKEYLOGFILE"  # the only file that is opened by the context itself
    try:
        context = ssl.create_default_context()
        name = "SSL_CERT_FILE"
        if file := os.environ.get(name):
            context.load_verify_locations(cafile=file)
        name = "SSL_CERT_DIR"
        folders = [each for each in os.environ.get(name, "").split(os.pathsep) if each]
        if folders and not any(Path(each).is_dir() for each in folders):
            raise NotADirectoryError("there is no such folder")
    except OSError as error:  # ssl.SSLError is an OSError
        is_read = isinstance(error, ssl.SSLError)
        reason = "it holds no certificate" if is_read else describe_os_error(error)
        raise UsageError(
            f"{name}={os.environ.get(name, '')} cannot be used: {reason}",
            f"name one that is there, or unset it: `unset {name}`",
        ) from error
    return context
