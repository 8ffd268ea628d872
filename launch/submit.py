"""Send a run to a cluster, or start it here: checked first, with a copy of the code as it is now.

python launch/submit.py cluster=local|slurm|debug|SITE [cluster.nodes=2 cluster.gpus_per_node=8 ...] KEYS OF train.py
    [entry=train|cache_teacher|evaluate|benchmark] [follow=true] [submit.dry=true]

SITE names a file configs/cluster/SITE.yaml.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any, Literal

if __name__ == "__main__":  # run by path, uninstalled, or from a code snapshot
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import pipeline  # noqa: F401  first: it says which packages are missing

from launch.jobs import checks, submission
from launch.jobs.cluster import ClusterConfig, own_words, with_site
from launch.jobs.entry_points import ENTRIES
from launch.jobs.local_queue import QUEUE
from launch.jobs.submission import JobHandle, submit_runs
from launch.jobs.submission_record import free_folder
from pipeline import cli as endings
from pipeline.config import ConfigError, describe, validate
from pipeline.config.base import Section, key
from pipeline.config.words import parse_arguments
from pipeline.contracts import InputError
from pipeline.registry import UnknownName
from pipeline.run_folder.folder import RunDir

__all__ = ["JobHandle", "SubmitConfig", "submit_runs"]
FAILURES: dict[type[Exception], int] = {submission.JobFailed: 1}


class SubmitKeys(Section):
    dry: bool = key(False, "print the sbatch script, submit nothing", affects="log")


class SubmitConfig(Section):
    """Keys of launch/submit.py; all others are the entry point's."""

    cluster: ClusterConfig = ClusterConfig()
    entry: Literal["train", "cache_teacher", "evaluate", "benchmark"] = key("train", "what to run", affects="numbers")
    follow: bool = key(False, "print the log until the run has ended", affects="log")
    submit: SubmitKeys = SubmitKeys()


def read_config(words: list[str]) -> tuple[SubmitConfig, list[str], Any]:
    """(launcher's configuration, words of the run, the run's configuration). Raises ConfigError with all problems."""
    own, rest = own_words(words)
    problems: list[str] = []
    config, run = SubmitConfig(), None
    try:
        given = parse_arguments(own, {"cluster": "cluster.name"}, problems, SubmitConfig)
        config = validate(SubmitConfig, given | {"cluster": with_site(given.get("cluster", {}))})
    except ConfigError as error:
        problems += error.problems
    named = dict(word.split("=", 1) for word in own if word.startswith("entry=")).get("entry", "train")
    try:
        run = ENTRIES[named].check(rest) if named in ENTRIES else None
    except ConfigError as error:
        problems += error.problems
    except (InputError, UnknownName) as error:
        problems.append(str(error.args[0]))
    if not problems:
        problems += checks.cluster_problems(config.cluster, config.entry, run)
    if problems:
        raise ConfigError(problems)
    return config, rest, run


def prepared(entry: str, words: list[str], config: Any) -> list[str]:
    """The words of the job. run.resume=never is done here, once: a requeued job must go on with its own folder."""
    if entry != "train" or config.run.resume != "never":
        return words
    from pipeline.builders.run import one_seed

    for number in range(config.seeds):
        aside = RunDir(Path(config.run.dir) / str(one_seed(config, number).run.name)).set_aside()
        if aside is not None:
            print(f"the earlier run was set aside as {aside}")
    return [*words, "run.resume=auto"]


def follow(job: JobHandle) -> None:
    """Prints the log as it grows until the job has ended. Raises JobFailed with the reason and the log's end."""
    position = 0
    while True:
        QUEUE.pump()
        over = job.over()
        log = job.log[0]
        if log.exists():
            with log.open("rb") as handle:
                handle.seek(position)
                text = handle.read()
            position += len(text)
            sys.stdout.write(text.decode(errors="replace"))
            sys.stdout.flush()
        if over:
            break
        time.sleep(job.poll_s)
    job.check()


def help_text() -> str:
    """What --help prints."""
    return describe(__doc__ or "", SubmitConfig, "\nFurther keys: those of the entry point (pipeline/train.py --help).")


def main(argv: list[str]) -> None:
    """The command line."""
    config, words, run = read_config(argv)
    folder = free_folder(ENTRIES[config.entry].folder(run).absolute())
    checks.check_folder(config.cluster, folder)
    if config.submit.dry:
        print(submission.script(config.cluster, folder, config.entry))
        return
    words = prepared(config.entry, words, run)
    [job] = submit_runs(config.cluster, [words], folder, config.entry)
    print(f"job {job.job_id or 'here'} on cluster={config.cluster.name}, folder {folder}", flush=True)
    for log in job.log[:1]:
        print(f"watch:  tail -F {log}", flush=True)
    if config.cluster.name == "slurm":
        print(f"        squeue -j {job.job_id}; to stop it: scancel {job.job_id}", flush=True)
    if config.cluster.name == "debug":
        job.check()
    elif config.follow:
        follow(job)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    endings.run(main, help_text, FAILURES)
