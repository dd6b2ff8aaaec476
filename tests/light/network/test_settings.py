"""Settings of the environment that cannot be used are named; those that can are let pass."""

import pytest

from tinyv_cli.errors import UsageError
from tinyv_cli.network import settings
from tinyv_cli.network.certificates import check_certificates
from tinyv_cli.network.settings import check_hub_settings, check_proxies


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("ALL_PROXY", "socks://127.0.0.1:1080/", "begins with none of"),  # as GNOME sets it
        ("all_proxy", "socks4://127.0.0.1:1080", "begins with none of"),
        ("http_proxy", "ftp://proxy", "begins with none of"),
        ("HTTP_PROXY", "http://127.0.0.1:abc", "its port is no number"),
        ("HTTPS_PROXY", "proxy:99999", "its port is no number"),
        ("HTTPS_PROXY", "http://proxy:0", "its port is no number"),
        ("https_proxy", "http://", "has no host"),
        ("https_proxy", "http://a proxy", "has no host"),
        ("https_proxy", "http://[::1", "Invalid IPv6 URL"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_named_with_its_variable(monkeypatch, name, value, reason):
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=reason) as caught:
        check_proxies()
    assert caught.value.problem.startswith(f"{name}=")
    assert f"unset {name}" in caught.value.hint


def test_a_socks_proxy_is_used_where_its_library_is_there_and_else_says_so(monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1080")
    monkeypatch.setattr(settings, "find_spec", lambda name: name == "socksio" or None)
    check_proxies()
    monkeypatch.setattr(settings, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"ALL_PROXY=socks5://127.*socksio") as caught:
        check_proxies()
    assert "pip install socksio" in caught.value.hint


@pytest.mark.parametrize("value", ["http://me:secret@proxy:abc", "me:secret@proxy.org:abc"])
def test_the_password_of_a_proxy_is_not_shown(monkeypatch, value):
    monkeypatch.setenv("HTTPS_PROXY", value)
    with pytest.raises(UsageError) as caught:
        check_proxies()
    assert "secret" not in caught.value.problem + caught.value.hint


@pytest.mark.parametrize(
    "value", ["http://proxy:3128", "proxy:3128", "https://me:x@[::1]:1", "proxy", ""]
)
def test_a_usable_proxy_is_let_pass(monkeypatch, value):
    monkeypatch.setenv("HTTPS_PROXY", value)
    monkeypatch.setenv("FTP_PROXY", "nonsense://")
    check_proxies()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HF_HUB_DOWNLOAD_TIMEOUT", "abc"),
        ("HF_HUB_DOWNLOAD_TIMEOUT", ""),
        ("HF_HUB_ETAG_TIMEOUT", "1.5"),
        ("HF_ENDPOINT", "hub.example.org"),
        ("HF_ENDPOINT", "https://hub:abc"),
    ],
)
def test_a_setting_of_the_hub_that_cannot_be_used_is_named(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=f"{name}={value} ") as caught:
        check_hub_settings()
    assert f"unset {name}" in caught.value.hint


def test_usable_settings_of_the_hub_are_let_pass(monkeypatch):
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "30")
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example.org/hub")
    check_hub_settings()


@pytest.mark.parametrize("kind", ["missing", "folder", "text"])
@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"])
def test_certificates_that_cannot_be_used_are_named(monkeypatch, tmp_path, name, kind):
    place = {"missing": tmp_path / "none" / "x", "folder": tmp_path, "text": tmp_path / "text"}
    (tmp_path / "text").write_text("no certificate")
    monkeypatch.setenv(name, str(place[kind]))
    if (name, kind) in (("SSL_CERT_DIR", "folder"), ("SSLKEYLOGFILE", "text")):
        check_certificates()
        return
    with pytest.raises(UsageError, match=f"{name}={place[kind]} cannot be used") as caught:
        check_certificates()
    assert f"unset {name}" in caught.value.hint
