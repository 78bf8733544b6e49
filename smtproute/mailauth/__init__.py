"""Judges the authentication that a message brings along, and seals what we forward.

Names of DNS records stand in the header, so they are looked up first, all at once, through the look-up that is
handed in; then the message is judged in the CPU pool, which asks nobody anything. Sealing is ours, octet by octet:
what is signed is exactly what is sent. Nothing that a message claims about its own authentication enters a seal:
the results are the caller's verdicts, and fields that claim to be ours are taken out at the door.

`judgement` has everything about a message checked at once, within one budget (`lookups`), and says what follows:
`spf` judges the client, `dkim` the signatures, `dmarc` asks the author's domain what it makes of both. `arc` judges a
chain and makes the next set; `sets` finds the ARC sets in a header; `validation` is dkimpy's walk over a chain with
our hashing and OpenSSL's RSA under it. `header` is a message opened within our bounds, and what is hashed of it in
the forms of `canonical`; `signature` is one signature of either kind, its tags and its key; `sign` makes them; `keys`
are ours to sign with and others' to verify with; `secret` is what SRS signs with; `results` are
Authentication-Results fields.
`diagnosis` says for an administrator what broke a signature, by undoing `body_changes` and `header_changes`.
"""
