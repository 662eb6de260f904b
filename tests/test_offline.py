"""Tests reach no other machine, and the processes that they start do not either."""

import os
import socket
import subprocess
import sys
import urllib.request

import pytest

# of an address for documentation, where nobody lives
ADDRESS = ("192.0.2.1", 80)


def test_another_machine_is_refused():
    with socket.socket() as tcp, pytest.raises(RuntimeError, match="no other machine: 192.0.2.1"):
        tcp.connect(ADDRESS)
    with (
        socket.socket(type=socket.SOCK_DGRAM) as udp,
        pytest.raises(RuntimeError, match="no other machine: 192.0.2.1"),
    ):
        udp.sendto(b"x", ADDRESS)
    with pytest.raises(RuntimeError, match=r"example.org \(socket.getaddrinfo\)"):
        urllib.request.urlopen("https://example.org", timeout=5)


def test_this_machine_is_reached():
    with socket.create_server(("127.0.0.1", 0)) as server:
        for host in ("127.0.0.1", "localhost"):
            with socket.create_connection((host, server.getsockname()[1]), timeout=5):
                server.accept()[0].close()


def test_a_process_of_a_test_is_refused_too():
    code = f"import socket; socket.socket().connect({ADDRESS})"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "Offline: tests reach no other machine: 192.0.2.1" in ended.stderr


def test_the_hub_is_off_whatever_the_user_has_set():
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    from huggingface_hub import constants

    assert constants.HF_HUB_OFFLINE
