"""swaks, the Swiss Army Knife for SMTP, as a client."""

from __future__ import annotations

import asyncio


async def swaks(address: tuple[str, int], *options: str) -> tuple[int, str]:
    """Its exit status and the transcript that it prints."""
    host, port = address
    process = await asyncio.create_subprocess_exec(
        *("swaks", "--server", host, "--port", str(port), "--helo", "client.example", *options),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(30):
        printed, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, printed.decode()
