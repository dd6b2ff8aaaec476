"""The certificates that the environment names are checked; the rest is the TLS library's."""

import os
import ssl
from pathlib import Path

from tinyv_cli.errors import UsageError, describe_os_error


def check_certificates() -> None:
    """Checks what the environment says of certificates, where it says something.

    OpenSSL passes over a SSL_CERT_FILE or SSL_CERT_DIR that is not there, and then trusts nobody;
    Python opens the log of keys with every context.

    Raises:
        UsageError: SSL_CERT_FILE, SSL_CERT_DIR or SSLKEYLOGFILE names nothing that can be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"):
        value = os.environ.get(name)
        if not value:
            continue
        try:
            if name == "SSL_CERT_FILE":
                context.load_verify_locations(cafile=value)
            elif name == "SSLKEYLOGFILE":
                context.keylog_filename = value
            elif not any(Path(each).is_dir() for each in value.split(os.pathsep)):
                raise NotADirectoryError("there is no such folder")
        except OSError as error:
            is_read = isinstance(error, ssl.SSLError)
            reason = "it holds no certificate" if is_read else describe_os_error(error)
            raise UsageError(
                f"{name}={value} cannot be used: {reason}",
                f"name one that is there, or unset it: `unset {name}`",
            ) from error
