"""The container image: what is in it, and that it works as its user with nothing else."""

import asyncio
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import image
from checks import kubernetes
from clients import CLIENTS
from harness import proxy
from harness.backends import FASTAPI_AGENT
from harness.delivery import Delivery, errors
from harness.processes import Processes
from image import Buildah

MAX_BYTES = 15_000_000
UID = "65532"
RUN_SECONDS = 20
LISTEN_SECONDS = 20


@pytest.fixture(scope="session")
def buildah(
    tmp_path_factory: pytest.TempPathFactory, binary: Path
) -> Iterator[Buildah]:
    buildah = Buildah(tmp_path_factory.mktemp("buildah"))
    buildah.stand_in(image.base_image(), binary)
    yield buildah
    buildah("rm", "--all")
    buildah("rmi", "--all", "--force")


@pytest.fixture(scope="session")
def built(buildah: Buildah) -> str:
    return buildah.build()


@pytest.fixture(scope="session")
def root(buildah: Buildah, built: str) -> Path:
    return buildah.mount(built)


@pytest.fixture
def as_readygate(
    monkeypatch: pytest.MonkeyPatch, root: Path, buildah: Buildah, built: str
) -> Path:
    """A program that runs the image's, as the image says, and takes the same arguments."""
    config = buildah.inspect(built)
    (entrypoint,) = config["Entrypoint"]
    user, group = config["User"].split(":")
    assert user == group
    monkeypatch.setenv("IMAGE_ROOT", str(root))
    monkeypatch.setenv("IMAGE_UID", user)
    monkeypatch.setenv("IMAGE_ENTRYPOINT", entrypoint)
    monkeypatch.setenv("IMAGE_FOLDER", config["WorkingDir"])
    program = Path(__file__).parent / "run_image.sh"
    monkeypatch.setenv("READYGATE", str(program))
    return program


def test_the_image_says_what_it_is_and_how_it_runs(
    buildah: Buildah, built: str
) -> None:
    config = buildah.inspect(built)

    manifest = tomllib.loads((image.ROOT / "Cargo.toml").read_text())["package"]
    labels = config["Labels"]
    assert config["User"] == f"{UID}:{UID}"
    assert config["Entrypoint"] == ["/readygate"]
    assert config["WorkingDir"] == "/etc/readygate"
    assert config["StopSignal"] == "SIGTERM"
    assert config["ExposedPorts"].keys() == {"8080/tcp", "9901/tcp"}
    assert config["Healthcheck"]["Test"] == ["CMD", "/readygate", "healthcheck"]
    assert labels["org.opencontainers.image.version"] == manifest["version"]
    assert labels["org.opencontainers.image.licenses"] == manifest["license"]
    assert labels["org.opencontainers.image.revision"] == "abcdef"
    assert labels["org.opencontainers.image.source"] == "https://git.example"


def test_the_image_has_the_program_and_authorities_and_nothing_else(root: Path) -> None:
    files = image.files_in(root)

    assert files.keys() == {"readygate", image.CERTIFICATES}
    assert (root / image.CERTIFICATES).read_text().count("BEGIN CERTIFICATE") > 100
    assert sum(files.values()) < MAX_BYTES


def test_the_program_is_static(root: Path) -> None:
    headers = subprocess.run(
        ["readelf", "--program-headers", root / "readygate"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert "LOAD" in headers
    assert "INTERP" not in headers


def test_two_builds_make_the_same_image(buildah: Buildah) -> None:
    # In the form of docker buildah notes the name of the container that it built in.
    assert buildah.build(form="oci") == buildah.build(form="oci")


def test_another_user_in_the_dockerfile_makes_another_image(
    buildah: Buildah, tmp_path: Path
) -> None:
    changed = copy_with(image.DOCKERFILE, "USER 65532:65532", "USER 0", tmp_path)

    assert buildah.inspect(buildah.build(changed))["User"] == "0"


@pytest.mark.parametrize(
    ("right", "wrong", "complaint"),
    (
        ("--release", "--profile nonsense", "asked to build --profile nonsense"),
        ("--bin readygate", "", "asked to build"),
        ('READYGATE_COMMIT="$COMMIT"', "READYGATE_COMMIT=main", "the commit is main"),
        ("recommends musl-tools", "recommends make", "musl-tools are not installed"),
        ("rustup target add", "rustup target list", "linux-musl is not installed"),
    ),
)
def test_a_dockerfile_that_the_compiler_could_do_nothing_with_is_refused(
    right: str, wrong: str, complaint: str, buildah: Buildah, tmp_path: Path
) -> None:
    changed = copy_with(image.DOCKERFILE, right, wrong, tmp_path)

    with pytest.raises(AssertionError, match=complaint):
        buildah.build(changed)


@pytest.mark.parametrize(
    ("right", "wrong", "complaint"),
    (
        ("!.cargo\n", "", ".cargo/config.toml is not in"),
        ("!Cargo.lock\n", "", "Cargo.lock is not in"),
        ("!Cargo.toml\n", "", "Cargo.toml is not in"),
        ("!build.rs\n", "", "build.rs is not in"),
        ("!proxy.toml\n", "", "proxy.toml is not in"),
        ("!src\n", "", "src/main.rs is not in"),
        ("!tests/bench/instructions.rs", "", "tests/bench/instructions.rs is not in"),
        ("!src\n", "!src\n!deploy\n", "deploy is in"),
    ),
)
def test_a_context_that_is_not_what_the_image_is_built_from_is_refused(
    right: str, wrong: str, complaint: str, buildah: Buildah, tmp_path: Path
) -> None:
    changed = copy_with(image.IGNORED, right, wrong, tmp_path)

    with pytest.raises(AssertionError, match=f"{complaint} the context"):
        buildah.build(ignored=changed)


def copy_with(file: Path, right: str, wrong: str, folder: Path) -> Path:
    """A copy of a file with a change."""
    copy = folder / file.name
    text = file.read_text()
    assert right in text
    copy.write_text(text.replace(right, wrong, 1))
    return copy


@pytest.fixture
def running(
    as_readygate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[subprocess.Popen]:
    """The image as people run it: its configuration is mounted, and nothing else is said."""
    file = tmp_path / "proxy.toml"
    file.write_text(
        f"""
listen = "127.0.0.1:0"
admin.listen = "0.0.0.0:{proxy.free_port()}"
[[route]]
upstream = "http://127.0.0.1:9"
"""
    )
    monkeypatch.setenv("IMAGE_CONFIG", str(file))
    running = subprocess.Popen([as_readygate], stdout=subprocess.PIPE, text=True)
    assert running.stdout and running.stdout.readline()
    yield running
    running.kill()
    running.wait()


def run(program: Path, command: list[str]) -> int:
    """The exit status of another command in the same container."""
    assert command[0] == "/readygate"
    return subprocess.run(
        [program, *command[1:]], timeout=RUN_SECONDS, check=False
    ).returncode


def test_the_program_runs_as_its_user_in_a_root_that_is_read_only(
    running: subprocess.Popen,
) -> None:
    status = Path(f"/proc/{running.pid}/status").read_text()
    mounts = Path(f"/proc/{running.pid}/mountinfo").read_text()
    running.terminate()

    assert running.wait(RUN_SECONDS) == 0
    assert "Uid:" + 4 * f"\t{UID}" + "\n" in status
    assert "CapEff:\t0000000000000000\n" in status
    assert "NoNewPrivs:\t1\n" in status
    options = [
        line.split()[5] for line in mounts.splitlines() if line.split()[4] == "/"
    ]
    assert options and all(one.split(",")[0] == "ro" for one in options)


def test_the_health_check_of_the_image_tells_whether_it_runs(
    running: subprocess.Popen, as_readygate: Path, buildah: Buildah, built: str
) -> None:
    check = buildah.inspect(built)["Healthcheck"]["Test"][1:]

    while_it_runs = run(as_readygate, check)
    running.terminate()
    running.wait(RUN_SECONDS)

    assert while_it_runs == 0
    assert run(as_readygate, check) == 1


def test_the_pre_stop_hook_of_kubernetes_returns_when_it_has_ended(
    running: subprocess.Popen, as_readygate: Path
) -> None:
    manifests = {
        one["kind"]: one for one in kubernetes.built(image.ROOT / "deploy/kubernetes")
    }
    pod = manifests["Deployment"]["spec"]["template"]["spec"]
    hook = pod["initContainers"][0]["lifecycle"]["preStop"]["exec"]["command"]

    assert run(as_readygate, hook) == 0
    assert running.wait(RUN_SECONDS) == 0


def test_clients_of_the_image_lose_nothing(
    as_readygate: Path, processes: Processes, tmp_path: Path
) -> None:
    backend = processes.start("agent", FASTAPI_AGENT.command)
    upstream = backend.announcement(LISTEN_SECONDS)["port"]
    port = proxy.start_for(processes, tmp_path, FASTAPI_AGENT, upstream)
    plans = [FASTAPI_AGENT.plan(user=f"user-{user}") for user in range(20)]

    results = asyncio.run(CLIENTS["websockets"](f"ws://127.0.0.1:{port}/", plans))

    assert errors(results) == []
    assert Delivery.total(results).perfect
    assert Delivery.total(results).sent > 20 * 30
