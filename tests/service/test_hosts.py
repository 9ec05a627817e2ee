"""Names that the service answers to, and pages that may use it."""

import pytest
from fastapi.responses import PlainTextResponse
from fastapi.testclient import TestClient

from paddleseg_psp.service.hosts import AllowedHosts


def status(headers, own="127.0.0.1", others=()):
    client = TestClient(AllowedHosts(PlainTextResponse("yes"), own, others))
    answer = client.post("/predict", headers=headers)
    assert "\n" not in answer.text
    return answer.status_code


@pytest.mark.parametrize(
    "host, expected",
    [
        ("localhost", 200),
        ("localhost:8000", 200),
        ("LOCALHOST:8000", 200),
        ("localhost.", 200),
        ("127.0.0.1:8000", 200),
        ("10.1.2.3:8000", 200),  # Prometheus and Kubernetes
        ("[::1]:8000", 200),
        ("[fe80::1]", 200),
        ("evil.example", 421),
        ("evil.example:8000", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("127.0.0.1.nip.io", 421),
        ("0x7f.1", 421),
        ("2130706433", 421),
        ("[::1].evil.example", 400),
        ("localhost, evil.example", 400),
        ("evil.example/localhost", 400),
        ("user@localhost", 400),
        ("localhost:80:80", 400),
        ("", 400),
    ],
)
def test_hosts(host, expected):
    assert status({"Host": host}) == expected


def test_names_that_are_given():
    assert status({"Host": "maps.example.org"}, "0.0.0.0") == 421
    assert status({"Host": "Maps.Example.org.:80"}, "0.0.0.0", ["maps.example.org"]) == 200
    assert status({"Host": "box.lan:8000"}, "box.lan") == 200
    assert status({"Host": "evil.example", "Origin": "null"}, "0.0.0.0", ["*"]) == 200


def test_two_hosts():
    assert status([("Host", "localhost"), ("Host", "evil.example")]) == 400


@pytest.mark.parametrize(
    "origin, expected",
    [
        ("http://127.0.0.1:8000", 200),
        ("https://127.0.0.1:8000", 200),  # a proxy with TLS before it
        ("http://127.0.0.1:9000", 403),  # another service of the same machine
        ("http://localhost:8000", 403),
        ("http://evil.example", 403),
        ("http://127.0.0.1:8000.evil.example", 403),
        ("http://evil.example?http://127.0.0.1:8000", 403),
        ("file://127.0.0.1:8000", 403),
        ("null", 403),
        ("", 403),
        ("https://maps.example.org", 200),
        ("https://maps.example.org.evil.example", 403),
    ],
)
def test_origins(origin, expected):
    assert status({"Host": "127.0.0.1:8000", "Origin": origin}, others=["maps.example.org"]) == expected
