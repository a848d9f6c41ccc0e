"""A process that has imported what the programs import, and starts each of them in a child.

A line of standard input is a program with its arguments, as JSON; the line that answers it is its exit code, standard
output and standard error. JAX has no threads yet that would be lost in a child: they begin with its first array.
"""

import json
import os
import pathlib
import runpy
import signal
import sys
import tempfile

import mdtraj  # noqa: F401
import ml_collections.config_flags  # noqa: F401

import cmtjax.datasets
import cmtjax.evaluation.figures
import cmtjax.mcmc
import cmtjax.methods
import cmtjax.molecules
import cmtjax.runs.build
import cmtjax.sampler  # noqa: F401

_MAX_SECONDS = 600


def _start(program, *arguments):
    """Runs a program as ``python PROGRAM`` does; it ends with this process."""
    signal.alarm(_MAX_SECONDS)
    sys.argv = [program, *arguments]
    sys.path[0] = str(pathlib.Path(program).parent.resolve())
    runpy.run_path(program, run_name="__main__")
    sys.exit()


for line in sys.stdin:
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        if (child := os.fork()) == 0:
            os.dup2(output.fileno(), sys.stdout.fileno())
            os.dup2(errors.fileno(), sys.stderr.fileno())
            _start(*json.loads(line))
        exit_code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        for file in (output, errors):
            file.seek(0)
        print(json.dumps([exit_code, output.read(), errors.read()]), flush=True)
