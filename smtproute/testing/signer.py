"""Signer: somebody else's key, published on the stage, and what he signs or seals with it."""

from __future__ import annotations

from dataclasses import dataclass

from smtproute.core.settings import Authentication
from smtproute.mailauth import arc
from smtproute.mailauth.keys import SigningKey
from smtproute.mailauth.sign import sign
from smtproute.testing.stage import Flow

__all__ = ["Signer"]

_BOUNDS = Authentication()


@dataclass(frozen=True, slots=True)
class Signer:
    """One key. What it makes is dated by the stage's clock."""

    key: SigningKey
    flow: Flow
    """The relay whose resolver is asked for the keys of earlier seals."""

    async def sign(self, message: bytes) -> bytes:
        """The message with a DKIM signature in front. Raises SignFault."""
        return sign(message, [self.key], self._now(), _BOUNDS) + message

    async def seal(self, message: bytes, results: str = "") -> bytes:
        """The message with the next ARC set in front: what its last sealer would have made of it.

        `results` is what the set says of the message, as in Authentication-Results without the host name; by itself
        what became of the chain so far. Raises SignFault.
        """
        chain = await arc.evaluate(message, self.flow.lookup, self.flow.stage.pool, _BOUNDS, self._now())
        said = f"{self.key.domain}; {results or f'arc={chain.status}'}"
        return arc.seal(message, chain=chain, key=self.key, results=said, at=self._now(), bounds=_BOUNDS) + message

    def _now(self) -> int:
        return int(self.flow.stage.clock.now())
