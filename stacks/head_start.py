"""A head start for synthesis: Node.js does its longest work while Python still reads modules.

Import it before anything of the CDK, and let nothing use the CDK until :func:`validation` has returned: one process of
Node.js serves the CDK, one request at a time. Modules may be imported meanwhile, as importing ours asks nothing of it
(tests/unit/stacks/test_head_start.py). bench/synth.py measures what it is worth.
"""

from __future__ import annotations

import gc
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Final

#: Threads that V8 has for compiling in the background, unless told otherwise.
_V8_THREADS: Final = 4

# What synthesis makes lasts until its end. Looking for garbage in it would take a tenth of the time.
gc.disable()

# On fewer cores V8's threads get in the way of the one that synthesizes, and Node.js waits for them before it ends.
if (_cores := os.cpu_count() or _V8_THREADS) < _V8_THREADS:
    os.environ["NODE_OPTIONS"] = f"--v8-pool-size={_cores} {os.environ.get('NODE_OPTIONS', '')}".strip()

import aws_cdk as cdk


def _start() -> cdk.CloudFormationValidatePlugin:
    import cdk_nag  # noqa: F401  Node.js reads its rules

    return cdk.CloudFormationValidatePlugin()


_validation: Final = ThreadPoolExecutor(max_workers=1).submit(_start)


def validation() -> cdk.CloudFormationValidatePlugin:
    """The CDK's own validation of templates, which takes a second to start; waits for the rest of it."""
    return _validation.result()
