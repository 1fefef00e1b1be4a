"""TimescaleDB's own image (Community edition) in a container: only when it is asked for.

The container publishes its port on loopback alone and keeps its data in a volume of the same
name, made from the stack's id; an ephemeral stack uses no volume.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from pathlib import Path

import asyncpg

from coord import limits
from coord.errors import EnvironmentProblem
from coord.ops.devstack import ports, process
from coord.ops.devstack.postgres import OWNER, PostgresOptions, server_settings

IMAGE = "timescale/timescaledb:latest-pg17"


def run_command(name: str, port: int, options: PostgresOptions, *, image: str, volume: bool) -> list[str]:
    """The `docker run` that starts the database."""
    kept = ["-v", f"{name}:/var/lib/postgresql/data"] if volume else []
    inside = ("listen_addresses", "port", "unix_socket_directories", "shared_preload_libraries", "timezone")
    settings = server_settings(options, port=port, socket_dir=Path("/"), timescaledb=True)
    flags = [f for k, v in settings.items() if k not in inside and k != "log_timezone" for f in ("-c", f"{k}={v}")]
    return [
        "docker", "run", "-d", "--name", name, "--shm-size", "512m", "-p", f"{ports.LOOPBACK}:{port}:5432",
        "-e", f"POSTGRES_USER={OWNER}", "-e", f"POSTGRES_DB={OWNER}", "-e", "POSTGRES_HOST_AUTH_METHOD=trust",
        *kept, image, "postgres", *flags,
    ]  # fmt: skip


class DockerPostgres:
    """A TimescaleDB container, with the same face as `PostgresServer`; `name`: what makes it this stack's."""

    pid: int | None = None  # the container engine's business

    def __init__(
        self,
        name: str,
        options: PostgresOptions | None = None,
        *,
        image: str = IMAGE,
        volume: bool = True,
    ) -> None:
        self.options = options or PostgresOptions()
        self.port = 0
        self._name = f"coord-dev-{name}"
        self._image = image
        self._volume = volume
        self._made = False

    def url(self, database: str = OWNER) -> str:
        """Where the owner connects."""
        return f"postgresql://{OWNER}@{ports.LOOPBACK}:{self.port}/{database}"

    async def start(self, *, die_with_parent: bool = True) -> None:  # noqa: ARG002 - containers have no parent
        """Run the container and wait until it accepts connections; the image is pulled when it is not there.

        Raises `EnvironmentProblem` when there is no Docker or it cannot run the image.
        """
        if not shutil.which("docker"):
            raise EnvironmentProblem("The Community image needs Docker: apt install docker.io, or leave --docker out.")
        if self._made:
            await self._docker("start", self._name)
        else:
            self.port = ports.choose(self.options.port)
            await self._remove()
            run = run_command(self._name, self.port, self.options, image=self._image, volume=self._volume)
            await asyncio.to_thread(
                process.run, run, what="Starting TimescaleDB's container", timeout_s=limits.DEV_DOWNLOAD_S
            )
            self._made = True
        try:
            await process.wait_until(self._answers, limits.DEV_START_S)
        except TimeoutError:
            raise EnvironmentProblem(f"The container is not ready: see docker logs {self._name}") from None

    async def stop(self, *, immediate: bool = False) -> None:
        """Stop and remove the container; the volume stays.  Stopping twice is legal."""
        if self._made:
            if not immediate:
                await self._docker("stop", "--time", f"{limits.DEV_STOP_S:.0f}", self._name)
            await self._remove()
            self._made = False

    async def kill(self) -> None:
        """SIGKILL everything in the container."""
        await self._docker("kill", "--signal", "KILL", self._name)

    async def restart(self) -> None:
        """Stop and start with the same data on the same port."""
        await self._docker("stop", "--time", f"{limits.DEV_STOP_S:.0f}", self._name)
        await self.start()

    async def ensure_database(self, name: str = OWNER) -> None:
        """Create the database when there is none; the image has made `coord` itself."""
        admin = await asyncpg.connect(self.url())
        try:
            if not await admin.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", name):
                await admin.execute(f'CREATE DATABASE "{name}"')
        finally:
            await admin.close()
        conn = await asyncpg.connect(self.url(name))
        try:
            await conn.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
        finally:
            await conn.close()

    async def _answers(self) -> bool:
        # The image first runs a server on its socket alone while it makes the cluster; TCP means the real one.
        try:
            conn = await asyncpg.connect(self.url(), timeout=limits.DB_CONNECT_TIMEOUT_S)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False
        await conn.close()
        return True

    async def _remove(self) -> None:
        # Some versions call a missing container an error even when forced; a missing Docker shows at the next step.
        with contextlib.suppress(EnvironmentProblem):
            await self._docker("rm", "--force", self._name)

    async def _docker(self, *argv: str) -> str:
        return await asyncio.to_thread(process.run, ["docker", *argv], what=f"docker {argv[0]}")
