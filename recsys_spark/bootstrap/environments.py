"""Making the two virtual environments: ``.venv`` for the project, ``.venv-airflow`` for Airflow."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from . import horovod_wheel, java, stamp
from .shell import SetupError, locked, output_of, pip_command, run_logged, say, step, write_atomically
from .toolchain import CMAKE_REQUIREMENT, Toolchain, find_toolchain

TORCH_VARIABLE = "RECSYS_TORCH"
BUILD_REQUIREMENTS = ("setuptools", "wheel", "numpy", "cloudpickle", "psutil", "pyyaml", "packaging", "cffi")
AIRFLOW_REQUIREMENTS = (
    "apache-airflow",
    "apache-airflow-providers-standard",
    "apache-airflow-providers-apache-spark",
)
PACKER = "venv-pack2==0.9.2"  # at use only: nothing that runs needs it
LOG = "bootstrap.log"
ENV_FILE = "recsys_env.sh"


class Environment:
    """One virtual environment and the pip in it.

    Parameters
    ----------
    venv : Path
        Its folder.
    pins : str
        Text of the constraints file that every installation into it keeps to.
    """

    def __init__(self, venv: Path, pins: str) -> None:
        self.venv = venv
        self.pins = pins
        self.constraints = venv / "constraints.txt"
        self.python = venv / "bin" / "python"
        self.log = venv / LOG

    def create(self) -> None:
        """Make the environment, from nothing where what is there cannot be trusted."""
        if stamp.must_start_afresh(self.venv):
            shutil.rmtree(self.venv, ignore_errors=True)
            stamp.begin(self.venv)
            run_logged([_base_executable(), "-m", "venv", self.venv], self.log, "creating the virtual environment")
        stamp.begin(self.venv)
        write_atomically(self.constraints, self.pins)
        self.install("updating pip", "pip")  # older ones take minutes over what a newer one sees at once

    def install(self, what: str, *arguments: str | Path, show_log: bool = True) -> None:
        """Run ``pip install`` under the constraints."""
        words = [*pip_command(self.python, "install"), "-c", self.constraints, *arguments]
        run_logged(words, self.log, what, show_log=show_log)

    def check(self) -> None:
        """Refuse an environment whose packages contradict each other."""
        run_logged([self.python, "-m", "pip", "check"], self.log, "checking the installed packages (pip check)")


def _base_executable() -> str:
    # Started with the environment's own Python, the one underneath is meant.
    return str(getattr(sys, "_base_executable", None) or sys.executable)


def set_up_further(
    project: Path, name: str, pins: Sequence[str], package: str, problem: Callable[[Path], str] = lambda _: ""
) -> None:
    """Bring an environment beside ``.venv`` up to date, which holds one package and what that needs.

    Parameters
    ----------
    project : Path
        Root of the checkout.
    name : str
        Folder of the environment, such as ``.venv-browser``.
    pins : sequence of str
        Exact versions.
    package : str
    problem : callable
        Of the environment's Python: why the package does not work on this machine; empty where it does.

    Raises
    ------
    SetupError
        With one line for the person.
    """
    venv = project / name
    with locked(project, "it sets up this checkout"):
        key = stamp.fingerprint([*Path(__file__).parent.glob("*.py")], {})
        if stamp.is_current(venv, key):
            return
        environment = Environment(venv, "\n".join(pins) + "\n")
        with step(f"creating {name}"):
            environment.create()
        with step(f"installing {package}"):
            environment.install(f"installing {package}", package)
        environment.check()
        if why := problem(environment.python):
            raise SetupError(why)
        stamp.finish(venv, key, [], {})
        say(f"{name} is ready")


def set_up_project(project: Path, env: Mapping[str, str]) -> None:
    """Bring ``.venv`` up to date: pins, PyTorch, Horovod, the project itself, Java.

    Parameters
    ----------
    project : Path
        Root of the checkout.
    env : mapping
        Environment variables; pip's own configuration applies as it is.

    Raises
    ------
    SetupError
        With one line for the person.
    """
    venv = project / ".venv"
    with locked(project, "it sets up this checkout"):
        choices = user_choices(env, stamp.read_stamp(venv))
        key = project_key(project, choices, env)
        if stamp.is_current(venv, key):
            return
        tools = find_toolchain(env)
        environment = Environment(venv, (project / "constraints.txt").read_text(encoding="utf-8"))
        with step("creating .venv"):
            environment.create()
        java_home = _provide_java(environment, project, env)
        _install_torch(environment, choices.get(TORCH_VARIABLE), tools)
        _install_horovod(environment, project, tools, {**env, **choices})
        with step("installing the project and its packages"):
            environment.install("installing the project", "-e", f"{project}[dev]")
        if note := without_kernels(project):
            say(note)
        write_atomically(venv / ENV_FILE, env_file(venv, java_home))
        environment.check()
        stamp.finish(venv, key, [java_home], choices)
        say("ready")


def user_choices(env: Mapping[str, str], last: Mapping[str, object]) -> dict[str, str]:
    """Collect the user's variables that shape the environment; ones named earlier hold until named anew."""
    before = last.get("choices")
    chosen = dict(before) if isinstance(before, dict) else {}
    chosen.update({n: v for n, v in env.items() if n == TORCH_VARIABLE or n.startswith(horovod_wheel.BUILD_PREFIXES)})
    return chosen


def project_key(project: Path, choices: Mapping[str, str], env: Mapping[str, str]) -> str:
    """Fingerprint everything that decides what ``.venv`` holds."""
    files = [project / "setup.py", project / "constraints.txt", *Path(__file__).parent.glob("*.py")]
    files += sorted((project / "recsys_spark" / "native").glob("*.cpp"))
    has_gpu = shutil.which("nvidia-smi", path=env.get("PATH")) is not None
    return stamp.fingerprint(files, {**choices, "gpu": str(has_gpu)})


def without_kernels(project: Path) -> str:
    """Say that the compiled kernels are not there; empty where they are."""
    if any((project / "recsys_spark" / "native").glob("_kernels*.so")):
        return ""
    return f"the compiled kernels were not built (see .venv/{LOG}): NumPy and torch do their work, more slowly"


def without_torch(constraints: str) -> str:
    """Drop the line that pins torch."""
    return re.sub(r"(?mi)^torch\s*==.*\n?", "", constraints)


def _install_torch(environment: Environment, requirement: str | None, tools: Toolchain) -> None:
    if requirement:
        pins = environment.constraints.read_text(encoding="utf-8")
        write_atomically(environment.constraints, without_torch(pins))
    extra = [] if tools.has_cmake else [CMAKE_REQUIREMENT]
    with step(f"installing PyTorch ({requirement or 'as pinned'})"):
        environment.install("installing PyTorch", requirement or "torch", *BUILD_REQUIREMENTS, *extra)


def _install_horovod(environment: Environment, project: Path, tools: Toolchain, env: Mapping[str, str]) -> None:
    python = environment.python
    torch = horovod_wheel.probe_torch(python)
    if env.get(TORCH_VARIABLE):  # what was chosen is now a pin like the others
        pins = without_torch(environment.constraints.read_text(encoding="utf-8"))
        write_atomically(environment.constraints, f"{pins}torch=={torch.version.split('+')[0]}\n")
    flags = horovod_wheel.build_flags(torch, tools, env)
    if note := horovod_wheel.missing_for_gpu(torch, tools, flags):
        say(note)
    build = horovod_wheel.Build(python, tools, torch, flags)
    cache = horovod_wheel.cache_dir(env, project)
    try:
        _install_build(environment, build, cache)
    except SetupError as error:
        demanded = any(name.startswith(horovod_wheel.GPU_PREFIX) for name in env)
        if not build.has_gpu or demanded:
            raise
        say(str(error))
        say("going on without NCCL: one GPU trains well, several exchange gradients through the CPU")
        flags = horovod_wheel.build_flags(torch, replace(tools, has_gpu=False), env)
        _install_build(environment, replace(build, flags=flags), cache)


def _install_build(environment: Environment, build: horovod_wheel.Build, cache: Path) -> None:
    if horovod_wheel.installed_key(environment.venv) == build.key:
        return
    for attempt in ("first", "last"):
        with step(f"Horovod for torch {build.torch.version} (built once per user, in minutes)"):
            wheel = horovod_wheel.provide_wheel(build, cache, environment.log)
            environment.install("installing Horovod", "--no-deps", "--force-reinstall", wheel)
        if output_of([build.python, "-c", "import horovod.torch as hvd; hvd.init()"]) is not None:
            return
        shutil.rmtree(wheel.parent)
        if attempt == "first":
            say("the kept Horovod wheel does not load here; building it anew")
    raise SetupError(f"Horovod was built but does not load: {build.python} -c 'import horovod.torch'")


def _provide_java(environment: Environment, project: Path, env: Mapping[str, str]) -> Path:
    found = java.find_java_home(project, env)
    if found is not None:
        return found
    with step("no JDK 17 or 21 found; installing one into .venv"):
        try:
            environment.install("installing a JDK", java.JDK_PACKAGE, show_log=False)
        except SetupError as error:
            raise SetupError(java.MISSING) from error
        site = next(environment.venv.glob("lib/python3*/site-packages"))
        return java.make_java_home(site / java.JDK_PACKAGE / "java-runtime", project / java.OWN_JAVA_HOME)


def env_file(venv: Path, java_home: Path) -> str:
    """Compose the shell file that gives Spark's programs this environment.

    Parameters
    ----------
    venv : Path
        The project's environment.
    java_home : Path
        Home of the Java that Spark is to run on.
    """
    python = venv / "bin" / "python"
    site = next(venv.glob("lib/python3*/site-packages"), venv)
    values = {
        "JAVA_HOME": java_home,
        "SPARK_HOME": site / "pyspark",  # spark-submit and spark-class of the pinned version
        "PYSPARK_PYTHON": python,
        "PYSPARK_DRIVER_PYTHON": python,
    }
    lines = ["# Written by the set-up; source it, or let make do so."]
    lines += [f"export {name}={shlex.quote(str(value))}" for name, value in values.items()]
    lines.append('export SPARK_LOCAL_IP="${SPARK_LOCAL_IP:-127.0.0.1}"  # one machine; set it for a cluster')
    lines.append(f'export PATH={shlex.quote(str(venv / "bin"))}:"$PATH"')
    return "\n".join(lines) + "\n"


def pack_environment(project: Path, target: Path, env: Mapping[str, str]) -> None:
    """Make an environment with what executors need, and nothing more, and pack it for ``spark.archives``.

    Not ``.venv``: that one is larger than what an executor needs, and names this checkout instead of holding the
    package. An archive holds no Python: executors need one where the machine that packs it has its own.

    Parameters
    ----------
    project : Path
        Root of the checkout, with a ``.venv`` whose choice of PyTorch is kept to.
    target : Path
        The ``.tar.gz``.
    env : mapping
        Environment variables.
    """
    venv = project / "build" / "environment"
    with locked(project, "it sets up this checkout"):
        choices = user_choices(env, stamp.read_stamp(project / ".venv"))
        tools = find_toolchain(env)
        environment = Environment(venv, (project / "constraints.txt").read_text(encoding="utf-8"))
        with step("creating build/environment"):
            environment.create()
        _install_torch(environment, choices.get(TORCH_VARIABLE), tools)
        _install_horovod(environment, project, tools, {**env, **choices})
        with step("installing the project and what training needs"):
            environment.install("installing the project", "--force-reinstall", "--no-deps", project)
            environment.install("installing its packages", f"{project}[train]")
        environment.check()
        environment.install("installing venv-pack2", PACKER)
        target.parent.mkdir(parents=True, exist_ok=True)
        with step(f"packing {target.name}"):
            words: list[str | Path] = [
                "--prefix",
                venv,
                "--output",
                target,
                "--force",
                "--quiet",
                "--compress-level",
                "3",
            ]
            words += ["--exclude", "*/pyspark/jars/*"]  # an executor is a Java of the cluster's Spark already
            run_logged([venv / "bin" / "venv-pack", *words], environment.log, "packing the environment")
        stamp.finish(venv, "packed", [], choices)
        say(f"{target}: {target.stat().st_size / 2**20:,.0f} MiB")


def set_up_airflow(project: Path, env: Mapping[str, str]) -> None:
    """Bring ``.venv-airflow`` up to date.

    Airflow has an environment of its own because its Spark provider brings ``pyspark-client``, whose files
    would overwrite those of ``pyspark``.
    """
    venv = project / ".venv-airflow"
    constraints = project / "constraints-airflow.txt"
    with locked(project, "it sets up this checkout"):
        key = stamp.fingerprint([constraints, *Path(__file__).parent.glob("*.py")], {})
        if stamp.is_current(venv, key):
            return
        environment = Environment(venv, constraints.read_text(encoding="utf-8"))
        with step("creating .venv-airflow"):
            environment.create()
        with step("installing Airflow"):
            environment.install("installing Airflow", *AIRFLOW_REQUIREMENTS)
        environment.check()
        stamp.finish(venv, key, [], {})
        say("Airflow is ready")
