"""A docker-mailserver folder, unmodified: read as Postfix, Dovecot, rspamd and its own shell scripts read it.

`folder` brings it all together: accounts and aliases, quotas, relays, access lists, keys, and the environment file.
Where the scripts and Postfix read one line differently, both readings are kept and the difference is a finding.
"""
