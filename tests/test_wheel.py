"""The built wheel runs from any folder, without the project's own folder anywhere in sight."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what git tracks, so that nothing lying about gets into it."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", target, source], check=True)
    [built] = target.glob("*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_holds_every_module_and_configuration(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    modules = {
        f"trilab/{path.relative_to(ROOT / 'src' / 'trilab')}" for path in (ROOT / "src" / "trilab").rglob("*.py")
    }
    configs = {f"trilab_conf/{path.relative_to(ROOT / 'conf')}" for path in (ROOT / "conf").rglob("*.yaml")}
    others = {"trilab_experiments/README.md", "trilab/py.typed", "hydra_plugins/trilab_sweepers/__init__.py"}
    assert modules | configs | others <= packed
    assert not [name for name in packed if name.startswith(("tests", "data", "conf/", "src"))]


@pytest.mark.slow
def test_the_wheel_runs_in_a_clean_environment(wheel: Path, tmp_path: Path) -> None:
    """The dependencies are those of this environment; trilab itself is only the wheel's."""
    home = tmp_path / "env"
    venv.create(home)
    python = home / "bin" / "python"
    install = ["install", "-q", "--no-deps", "--no-index", wheel]
    subprocess.run([sys.executable, "-m", "pip", "--python", python, *install], check=True)
    [packages] = home.glob("lib/python*/site-packages")
    # The folder that a .pth file names is searched, but the .pth files in that folder (this environment's editable
    # install is one) are not read.
    (packages / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"])
    folder = tmp_path / "anywhere"
    folder.mkdir()
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "MLFLOW", "TRILAB"))
    }

    def run(*arguments: str) -> str:
        done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    where = run(str(python), "-c", "import trilab, trilab_conf; print(trilab.__file__, trilab_conf.__file__)").split()
    assert all(path.startswith(str(home)) for path in where)
    small = ["trainer.max_epochs=1", "trainer.limit_train_batches=3", "data.learning_starts=100", "data.val_episodes=2"]
    shown = run(str(home / "bin" / "trilab"), "train", "-m", "seed=1,2", *small)  # the sweeper is a plugin of its own
    assert "2 of 2 runs finished, 0 failed" in shown
    assert "test/return_mean" in shown
    assert (folder / "mlflow.db").is_file()
    assert (folder / "mlartifacts").is_dir()
    assert "experiment=rl/double_dqn_cartpole" in run(str(home / "bin" / "trilab"), "list")
