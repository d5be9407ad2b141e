"""A PostgreSQL server of a test's own, from whatever PostgreSQL is installed on the machine."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MIN_VERSION = 15


def find_programs() -> Path | None:
    """Return the folder of initdb and postgres, the newest that is recent enough."""
    found = [Path(name).resolve().parent for name in [shutil.which("postgres")] if name]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in found if _version(folder) >= MIN_VERSION), None)


def _version(folder: Path) -> int:
    if not (folder / "initdb").exists() or not (folder / "postgres").exists():
        return 0
    said = subprocess.run(
        [folder / "postgres", "--version"], capture_output=True, text=True, check=True
    )
    return int(said.stdout.split()[2].split(".")[0])


@contextmanager
def postgresql_server(programs: Path) -> Iterator[str]:
    """Run a server on the loopback interface; give the address of its database.

    PostgreSQL refuses to be root: there it runs as the user that has no rights.
    """
    user = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    # Not under pytest's own folder, which only root may enter.
    root = Path(tempfile.mkdtemp(prefix="video2lora-postgresql-"))
    os.chown(root, user.pw_uid, user.pw_gid)
    identity = {"user": user.pw_uid, "group": user.pw_gid, "cwd": root}
    if os.geteuid() != 0:
        identity = {"cwd": root}
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    data = root / "data"
    subprocess.run(
        [programs / "initdb", "-D", data, "-U", "prefect", "--auth=trust", "--no-sync"],
        check=True,
        capture_output=True,
        **identity,
    )
    options = ["-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", root, "-F"]
    with (root / "log").open("w") as log:
        server = subprocess.Popen(
            [programs / "postgres", *options], stdout=log, stderr=log, **identity
        )
        try:
            ask = [programs / "pg_isready", "-h", "127.0.0.1", "-p", str(port), "-t", "60"]
            for _ in range(300):
                if subprocess.run(ask, capture_output=True, check=False).returncode == 0:
                    break
                assert server.poll() is None, (root / "log").read_text()
            yield f"postgresql://prefect@127.0.0.1:{port}/postgres"
        finally:
            server.terminate()
            server.wait(60)
            shutil.rmtree(root)
