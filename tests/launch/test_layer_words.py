"""Unknown words in the launcher's own files: refused with the nearest known one, and the file is named."""

from pathlib import Path

import cli
import pytest

from launch import submit, sweep
from launch.jobs import cluster
from launch.jobs.cluster import ClusterConfig, submitit_parameters
from launch.tables.published import read_published
from pipeline.config import layers
from pipeline.contracts import InputError

RUN = ["dataset=synthetic", "model=resnet8", "submit.dry=true"]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """configs/cluster/mine.yaml of another tree of configs."""
    configs = tmp_path / "configs"
    for folder in layers.CONFIGS.iterdir():
        (configs / folder.name).parent.mkdir(exist_ok=True)
        if folder.name != "cluster":
            (configs / folder.name).symlink_to(folder)
    (configs / "cluster").mkdir()
    monkeypatch.setattr(layers, "CONFIGS", configs)
    return configs / "cluster" / "mine.yaml"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("name: slurm\npartiton: x\n", "unknown key 'partiton'; did you mean 'partition'?"),
        ("name: slurm\nsetup: ulimit\n", 'setup="ulimit"'),
        ("name: slurm\ntime: 1\n", "time=1 min is too short"),
        ("name: slurrm\n", 'name="slurrm"'),
        ("nodes: 1\n", "lacks name: local, slurm or debug"),
        ("name: slurm\nnodes: {a: 1}\n", "nodes"),
        ("[" * 5000, "mine.yaml"),
        ("- name\n", "mine.yaml"),
    ],
)
def test_a_cluster(site: Path, content: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    site.write_text(content)
    code, _, err = cli.call(submit, ["cluster=mine", *RUN], capsys)
    assert code == 2 and "mine.yaml" in err and text in err and err.count("\n") == 1, err


def test_text_of_a_site_is_text(site: Path) -> None:
    """Reservations and licences are names; true is a flag, false takes one away."""
    site.write_text(
        "name: slurm\naccount: 007\nextra: {reservation: 010, licenses: no, exclusive: true, requeue: false}\n"
    )
    config = ClusterConfig(**cluster.with_site({"name": "mine"}))
    further = submitit_parameters(config, "x")["slurm_additional_parameters"]
    assert config.account == "007"
    assert further == {"reservation": "010", "licenses": "no", "exclusive": True}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("axes: {dataset: [synthetic], modle: [resnet8]}", "axes: unknown key 'modle'; did you mean 'model'?"),
        ("axes: {dataset: [synthetic], both: [{model: resnet8, optim.lrr: 1}]}", "axes: unknown key 'optim.lrr'"),
        ("axes: {dataset: [synthetic]}\nset: {optm.lr: 1}", "set: unknown key 'optm'; did you mean 'optim'?"),
        ("axes: {dataset: [synthetic]}\nset: {optim: {lrr: 1}}", "set: unknown key 'optim.lrr'"),
        ("axes: {dataset: [synthetic]}\nset: {seed.x: 1}", "set: unknown key 'seed.x'"),
        ("axes: {dataset: [synthetic]}\nteacher_set: {dta.seed: 1}", "teacher_set: unknown key 'dta'"),
        ("axes: {dataset: [synthetic]}\nwords: {dta.seed: 1}", "unknown key 'dta'"),
        ("axes: {dataset: [synthetic]}\ninclude: [{methd: kd}]", "include: unknown key 'methd'"),
        ("axes: {dataset: [synthetic]}\ncache: {viws: 1}", "unknown key 'cache.viws'"),
        ("axs: {dataset: [synthetic]}", "unknown key 'axs'; did you mean 'axes'?"),
    ],
)
def test_a_sweep(tmp_path: Path, content: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s.yaml").write_text(content)
    code, _, err = cli.call(sweep, [f"sweep={tmp_path / 's.yaml'}", "sweep.dry=true"], capsys)
    assert code == 2 and all("s.yaml: " in line for line in err.splitlines()) and text in err, err


def test_sweeps_that_are_like_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for one, other in ("ab", "bc", "ca"):
        (tmp_path / f"{one}.yaml").write_text(f"like: {tmp_path / other}.yaml\n")
    code, _, err = cli.call(sweep, [f"sweep={tmp_path / 'a.yaml'}", "sweep.dry=true"], capsys)
    assert code == 2 and "like: goes in a circle" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("sources: {}\ntabels: {}\ntables: {}", "unknown key 'tabels'"),
        ("sources: {a: {titel: x}}\ntables: {}", "titel"),
        ("sources: {}\ntables: {t: {lables: {}}}", "lables"),
        ("[" * 5000, "published.yaml"),
    ],
)
def test_published_figures(tmp_path: Path, content: str, text: str) -> None:
    (tmp_path / "published.yaml").write_text(content)
    with pytest.raises(InputError, match=text) as refused:
        read_published(tmp_path / "published.yaml")
    assert "published.yaml" in str(refused.value) and "\n" not in str(refused.value)
