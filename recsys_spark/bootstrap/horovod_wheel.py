"""Building Horovod once and keeping the wheel for every later checkout.

Horovod is published as source only. A build takes minutes and depends on torch's exact version, on
Python's and on the chosen operations, none of which pip's own wheel cache looks at. So the wheel is
kept under a name that says all three:

    <user's cache>/recsys_spark/wheels/horovod-0.28.1-cp311-torch2.13.0+cpu-<machine>-1a2b3c4d5e/
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from .shell import (
    SetupError,
    locked,
    output_of,
    pip_command,
    run_logged,
    say,
    scratch_beside,
    write_atomically,
)
from .toolchain import Toolchain

VERSION = "0.28.1"
PYTHON_TAG = "cp311"
PIP_OPTIONS = ("--no-cache-dir", "--no-build-isolation", "--no-deps")
GPU_PREFIX = "HOROVOD_GPU_"
BYTES_PER_COMPILER = 2 << 30  # torch's headers cost a compiler between 1 and 2 GiB

CPU_FLAGS = {
    "HOROVOD_WITH_PYTORCH": "1",
    "HOROVOD_WITHOUT_TENSORFLOW": "1",
    "HOROVOD_WITHOUT_MXNET": "1",
    "HOROVOD_WITH_GLOO": "1",
    "HOROVOD_WITHOUT_MPI": "1",
    "HOROVOD_CPU_OPERATIONS": "GLOO",
}
# Of the HOROVOD_* variables only these change what is built; the others tune a run.
BUILD_PREFIXES = tuple(f"HOROVOD_{word}" for word in ("WITH", "CPU_OP", "GPU", "CUDA", "NCCL", "BUILD"))

# Horovod asks for C++14 and gives no switch, torch's headers need C++17; the last -std wins. What
# nvcc hands to the host compiler is left alone: there the standard has to be nvcc's.
COMPILER_WRAPPER = """\
#!/bin/sh
case " $* " in *__CUDACC__*) exec {compiler} "$@" ;; esac
exec {compiler} "$@" -std=gnu++17
"""

PROBE = """
import importlib.util as util, json, torch
found = util.find_spec("nvidia") and util.find_spec("nvidia.nccl")
home = list(found.submodule_search_locations)[0] if found else None
print(json.dumps([torch.__version__, torch.version.cuda, home]))
"""


@dataclass(frozen=True)
class TorchBuild:
    """The installed PyTorch, as far as a compiled extension depends on it.

    Attributes
    ----------
    version : str
        Full version with its local part, for example ``2.13.0+cpu``.
    cuda : str or None
        CUDA version it was built for; None in a CPU build.
    nccl_home : str or None
        Folder of the NCCL that came with it as a wheel.
    """

    version: str
    cuda: str | None
    nccl_home: str | None


@dataclass(frozen=True)
class Build:
    """All that a build of Horovod is made of.

    Attributes
    ----------
    python : Path
        Python of an environment that holds torch and the build requirements.
    tools : Toolchain
        Compilers of this machine.
    torch : TorchBuild
        The torch in that environment.
    flags : mapping
        Horovod's build variables.
    """

    python: Path
    tools: Toolchain
    torch: TorchBuild
    flags: Mapping[str, str]

    @property
    def has_gpu(self) -> bool:
        """Whether GPU collectives are part of it."""
        return any(name.startswith(GPU_PREFIX) for name in self.flags)

    @property
    def key(self) -> str:
        """Name of the build's cache folder."""
        return wheel_key(self.torch.version, machine_tag(), self.flags)


def probe_torch(python: Path) -> TorchBuild:
    """Ask an environment's Python which torch it has."""
    text = output_of([python, "-c", PROBE])
    if text is None:
        raise SetupError(f"PyTorch was installed but cannot be imported; see: {python} -c 'import torch'")
    version, cuda, home = json.loads(text.strip().splitlines()[-1])
    return TorchBuild(version, cuda, home)


def build_flags(torch: TorchBuild, tools: Toolchain, env: Mapping[str, str]) -> dict[str, str]:
    """Choose Horovod's build flags: CPU collectives always, NCCL where a GPU can use it.

    A ``HOROVOD_*`` build variable of the user's own wins over the choice here; an empty one removes it.
    """
    flags = dict(CPU_FLAGS)
    if tools.has_gpu and torch.cuda is not None and tools.cuda_home is not None:
        flags["HOROVOD_GPU_OPERATIONS"] = "NCCL"
    own = {name: value for name, value in env.items() if name.startswith(BUILD_PREFIXES)}
    return {name: value for name, value in sorted({**flags, **own}.items()) if value}


def missing_for_gpu(torch: TorchBuild, tools: Toolchain, flags: Mapping[str, str]) -> str | None:
    """Say in one line why a machine with a GPU gets no NCCL; None when it gets it, or has no GPU."""
    if not tools.has_gpu or "HOROVOD_GPU_OPERATIONS" in flags:
        return None
    if torch.cuda is None:
        return (
            f"NVIDIA GPU found, but pip chose torch {torch.version} for CPU: training will not use the GPU; "
            "point pip at a CUDA build or set RECSYS_TORCH, then run the set-up again"
        )
    return (
        "NVIDIA GPU found, but no CUDA compiler (nvcc): one GPU trains well, several exchange gradients "
        "through the CPU; install the CUDA toolkit or set HOROVOD_CUDA_HOME, then run the set-up again"
    )


def wheel_key(torch_version: str, machine: str, flags: Mapping[str, str]) -> str:
    """Name the cache folder of a build: readable, and another one whenever the binary would differ."""
    name = f"horovod-{VERSION}-{PYTHON_TAG}-torch{torch_version}-{machine}"
    parts = [name, *(f"{flag}={flags[flag]}" for flag in sorted(flags))]
    return f"{name}-{hashlib.sha256(chr(10).join(parts).encode()).hexdigest()[:10]}"


def machine_tag() -> str:
    """Name the platform a compiled wheel belongs to, for example ``linux_x86_64_glibc2.36``."""
    return f"{platform.system()}_{platform.machine()}_{''.join(platform.libc_ver())}".lower()


def cache_dir(env: Mapping[str, str], project: Path) -> Path:
    """Return a writable folder for wheels: the user's cache, or the project's when there is none."""
    base = Path(env.get("XDG_CACHE_HOME") or Path(env.get("HOME") or "~").expanduser() / ".cache")
    for candidate in (base / "recsys_spark" / "wheels", project / ".cache" / "wheels"):
        try:
            candidate.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(candidate, os.W_OK):
            return candidate
    raise SetupError(f"cannot write to {base} nor to {project}; set XDG_CACHE_HOME to a folder of yours")


def cached_wheel(folder: Path) -> Path | None:
    """Return the wheel in a cache folder, if there is one."""
    return next(iter(sorted(folder.glob("horovod-*.whl"))), None)


def installed_key(venv: Path) -> str | None:
    """Return the key of the build that an environment has, from pip's note of where the wheel lay."""
    for note in venv.glob("lib/python3*/site-packages/horovod-*.dist-info/direct_url.json"):
        url = str(json.loads(note.read_text(encoding="utf-8"))["url"])
        return unquote(PurePosixPath(url).parent.name)
    return None


def provide_wheel(build: Build, cache: Path, log: Path) -> Path:
    """Return the wheel of a build, from the cache or by building it.

    The build happens in a folder beside its place and is renamed into it, so the cache never holds half
    a wheel; a lock lets one process build while others wait for it.
    """
    folder = cache / build.key
    with locked(cache, "it builds Horovod"):
        if cached_wheel(folder) is None:
            with scratch_beside(folder) as scratch:
                _compile(build, scratch, log)
                shutil.rmtree(folder, ignore_errors=True)
                (scratch / "wheel").rename(folder)
        else:
            say(f"Horovod's wheel was built earlier: {folder}")
    wheel = cached_wheel(folder)
    if wheel is None:
        raise SetupError(f"Horovod's build left no wheel; see {log}")
    return wheel


def _compile(build: Build, scratch: Path, log: Path) -> None:
    target = scratch / "wheel"
    target.mkdir()
    env = build_environment(build, os.environ, scratch)
    # Not under the cache: Horovod's build takes the path of its source for a regular expression, and the
    # cache's folders have a '+' in their names.
    with tempfile.TemporaryDirectory(prefix="horovod-") as temporary:
        source = _fetch_source(build, Path(temporary), log, env)
        if not build.has_gpu:
            forget_cuda(source / "cmake" / "Modules" / "FindPytorch.cmake")
        words = [*pip_command(build.python, "wheel"), *PIP_OPTIONS, "-w", target, source]
        run_logged(words, log, "building Horovod", env)
    about = {"torch": build.torch.version, "flags": dict(build.flags)}
    write_atomically(target / "build.json", json.dumps(about, indent=1) + "\n")


def _fetch_source(build: Build, folder: Path, log: Path, env: Mapping[str, str]) -> Path:
    words = [*pip_command(build.python, "download"), *PIP_OPTIONS, "--no-binary", "horovod", "-d", folder]
    run_logged([*words, f"horovod=={VERSION}"], log, "fetching Horovod", env)
    shutil.unpack_archive(folder / f"horovod-{VERSION}.tar.gz", folder)
    return folder / f"horovod-{VERSION}"


def forget_cuda(find_pytorch: Path) -> None:
    """Make Horovod's build take a CUDA build of torch for one without CUDA.

    It would compile CUDA code for any such torch, wanted or not, and fail on every machine that has a part
    of the CUDA toolkit only. Left out, collectives copy through the CPU, which is what no NCCL means anyway.
    """
    text = find_pytorch.read_text(encoding="utf-8")
    question = "torch.version.cuda is not None"
    if question not in text:
        raise SetupError(f"Horovod's build does not look as expected: no '{question}' in {find_pytorch.name}")
    find_pytorch.write_text(text.replace(question, "False"), encoding="utf-8")


def build_environment(build: Build, base: Mapping[str, str], scratch: Path) -> dict[str, str]:
    """Compose the environment of the build, with the compiler wrapper written to ``scratch``."""
    wrapper = scratch / "cxx"
    write_atomically(wrapper, COMPILER_WRAPPER.format(compiler=shlex.join(build.tools.compiler.split())))
    wrapper.chmod(0o755)
    env = {name: value for name, value in base.items() if not name.startswith(BUILD_PREFIXES)}
    env.pop("MAKELEVEL", None)
    env.update(build.flags)
    env.update(
        CXX=str(wrapper),
        PATH=os.pathsep.join([str(build.python.parent), env.get("PATH", os.defpath)]),
        MAKEFLAGS=f"-j{compilers_at_once()}",  # and not those of the make that may have started us
        CMAKE_POLICY_VERSION_MINIMUM="3.5",  # for CMake 4, which no longer reads older projects
    )
    if build.has_gpu:
        env.update(_nccl_of_torch(build.torch, env, scratch))
        if build.tools.cuda_home is not None:
            env.setdefault("HOROVOD_CUDA_HOME", str(build.tools.cuda_home))
            env["CUDA_HOME"] = env["HOROVOD_CUDA_HOME"]  # where torch's build helper looks
    return env


def _nccl_of_torch(torch: TorchBuild, env: Mapping[str, str], scratch: Path) -> dict[str, str]:
    """Point the build at the NCCL that torch itself loads, unless the user named another.

    Two NCCLs in one process do not get on. The wheel has the library under its versioned name only, so a
    link with the name that the linker looks for is put beside the build.
    """
    if torch.nccl_home is None or any(name.startswith("HOROVOD_NCCL") for name in env):
        return {}
    home = Path(torch.nccl_home)
    libraries = sorted((home / "lib").glob("libnccl.so*"))
    if not libraries:
        return {}
    links = scratch / "nccl"
    links.mkdir(exist_ok=True)
    (links / "libnccl.so").symlink_to(libraries[0])
    return {
        "HOROVOD_NCCL_INCLUDE": str(home / "include"),
        "HOROVOD_NCCL_LIB": str(links),
        "HOROVOD_NCCL_LINK": "SHARED",
    }


def compilers_at_once() -> int:
    """Return how many compilers fit: one per core, and no more than the memory holds."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(os.cpu_count() or 1, memory // BYTES_PER_COMPILER))
