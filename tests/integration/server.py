"""Runs commands of this repository, each in a process of its own, without importing torch for each.

Reads one JSON job a line (argv, cwd, out, err, perhaps env), forks, runs the script as `__main__`
in the child, and answers with the exit code. A job with `ranks`, environments, is as many processes
at once, and the answer the first exit code that is not 0. The parent only imports, so that a fork
inherits no threads.
"""

import json
import os
import runpy
import signal
import sys
import traceback
from contextlib import suppress

PATIENCE = 240  # seconds for a job of several processes, which may wait for each other
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, ROOT)
os.environ["DS_ACCELERATOR"] = "cpu"  # read where deepspeed is imported, here


def warm() -> None:
    """Everything that the commands import, first or late."""
    import hydra  # noqa: F401
    import matplotlib.backends.backend_agg  # noqa: F401
    import rouge_score.rouge_scorer  # noqa: F401
    import sacrebleu  # noqa: F401
    import transformers.models.qwen2.tokenization_qwen2  # noqa: F401
    import transformers.models.qwen2_5_vl.modeling_qwen2_5_vl  # noqa: F401

    import photon.commands.ask  # noqa: F401
    import photon.commands.cli  # noqa: F401
    import photon.phantoms.phantom_vqa  # noqa: F401
    import photon.weights.checkpoints  # noqa: F401
    import tasks.align  # noqa: F401
    import tasks.datamodule  # noqa: F401
    import tasks.entry  # noqa: F401
    import tasks.evaluate  # noqa: F401
    import tasks.finetune  # noqa: F401
    import tasks.logging  # noqa: F401
    import tasks.phantom_data  # noqa: F401
    import tasks.plan  # noqa: F401
    import tasks.retention_log  # noqa: F401

    with suppress(ImportError):  # save_pretrained imports it wherever it is installed
        import deepspeed  # noqa: F401


def child(job: dict) -> None:
    """Never returns: becomes the command."""
    if "ranks" in job:
        signal.alarm(PATIENCE)
    os.chdir(job["cwd"])
    os.environ.update(job.get("env", {}))
    for path, number in ((job["out"], 1), (job["err"], 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
    script, *arguments = job["argv"]
    code = 0
    try:
        if script == "-m":
            module, *arguments = arguments
            sys.argv = [module, *arguments]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        else:
            sys.argv = [os.path.join(ROOT, script), *arguments]
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def start(job: dict) -> int:
    """Fork for a job; the process id of the child."""
    pid = os.fork()
    if pid == 0:
        child(job)
    return pid


def main() -> None:
    warm()
    print("ready", flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        jobs = [job]
        if "ranks" in job:
            jobs = [job | {name: f"{job[name]}.{i}" for name in ("out", "err")} | {"env": env}
                    for i, env in enumerate(job["ranks"])]  # fmt: skip
        codes = [os.waitpid(pid, 0)[1] for pid in [start(job) for job in jobs]]
        print(next(filter(None, map(os.waitstatus_to_exitcode, codes)), 0), flush=True)


if __name__ == "__main__":
    main()
