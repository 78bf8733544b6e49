"""Scenarios: mail flows as files. Read (scenario), played on a stage (play), compared, recorded, brought up to date.

What is expected and what became of the mail are told in one vocabulary: `outcome.Copy` against
`scenario.ExpectTable`, by `comparison`, which is pure.
"""
