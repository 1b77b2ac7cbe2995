"""Run as a program by the supervisor's tests: supervises what its arguments describe until it gets a signal."""

import json
import os
import sys
from pathlib import Path
from signal import SIGTERM

from local.errors import EmbeddedError, StopRequestedError
from local.program import Program
from local.supervisor import Supervisor


def main(folder: Path, codes: dict[str, str], stop_seconds: float) -> int:
    try:
        with Supervisor(first_pause_seconds=0.01) as supervisor:
            for name, code in codes.items():
                supervisor.start(
                    Program(
                        name=name,
                        command=(sys.executable, "-c", code),
                        directory=folder,
                        log=folder / f"{name}.log",
                        environment=dict(os.environ),
                        stop_signals=((SIGTERM, stop_seconds),),
                    )
                )
            sys.stdout.write("watching\n")
            sys.stdout.flush()
            supervisor.watch()
    except StopRequestedError:
        return 0
    except EmbeddedError as error:
        sys.stderr.write(str(error))
        return 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), json.loads(sys.argv[2]), float(sys.argv[3])))
