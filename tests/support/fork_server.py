"""The other side of kfp_cluster.ForkServer: reads requests line by line, forks, tells who started and who ended."""

import json
import os
import runpy
import select
import sys
from typing import Any


def main() -> None:
    # What the containers import; TensorFlow's runtime starts in the forks.
    import components.serving_validator
    import kubeflow.attempts
    import kubeflow.database
    import pipeline.cli.outcome
    import pipeline.local
    import trainer_module.trainer
    import transform_module.preprocessing

    del components, kubeflow, pipeline, trainer_module, transform_module
    while True:
        ready, _, _ = select.select([sys.stdin.buffer.raw], [], [], 0.05)
        if ready:
            line = _read_line()
            if not line:
                return
            request = json.loads(line)
            child = os.fork()
            if child == 0:
                _become(request)
            print("started", child, flush=True)
        _tell_who_ended()


def _read_line() -> bytes:
    """Unbuffered: select does not see what a buffer holds."""
    line = b""
    while not line.endswith(b"\n"):
        read = os.read(0, 1)
        if not read:
            return b""
        line += read
    return line


def _tell_who_ended() -> None:
    try:
        pid, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return
    if pid:
        print("ended", pid, os.waitstatus_to_exitcode(status), flush=True)


def _become(request: dict[str, Any]) -> None:
    """The container: `python -m MODULE ARGUMENTS`."""
    _, flag, module, *arguments = request["command"]
    assert flag == "-m"
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.setsid()
    os.umask(0)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["directory"])
    sys.argv = [module, *arguments]
    code = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:  # noqa: BLE001  a fork must not go on as the server
        import traceback

        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
