"""Certificates for 127.0.0.1, made by the program `openssl`."""

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Certificates:
    """The files of an authority, and of a certificate that it has signed."""

    authority: Path
    certificate: Path
    key: Path

    @classmethod
    def make(cls, folder: Path) -> "Certificates":
        made = cls(folder / "ca.pem", folder / "server.pem", folder / "server.key")
        authority_key = folder / "ca.key"
        request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
        _openssl(
            *request,
            *("-subj", "/CN=interop authority"),
            *("-keyout", authority_key, "-out", made.authority),
        )
        _openssl(
            *request,
            *("-subj", "/CN=server"),
            *("-addext", "subjectAltName = IP:127.0.0.1"),
            *("-addext", "basicConstraints = critical, CA:FALSE"),
            *("-CA", made.authority, "-CAkey", authority_key),
            *("-keyout", made.key, "-out", made.certificate),
        )
        return made


def _openssl(*arguments: str | Path) -> None:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
