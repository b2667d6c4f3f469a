"""Snakemake that asks for the state of its jobs every second.

The executor asks ten seconds later each time that no job has ended, up to three minutes: right for days on a cluster,
and most of a test's time.
"""

import asyncio

from snakemake.cli import main
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor


async def pause(self: RemoteExecutor) -> None:
    await asyncio.sleep(1)


if __name__ == "__main__":
    RemoteExecutor.sleep = pause
    main()
