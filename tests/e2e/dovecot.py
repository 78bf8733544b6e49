"""A real Dovecot over a Maildir, with docker-mailserver's quota settings, as the witness of what is counted.

It takes mail by LMTP as well.
"""

from __future__ import annotations

import grp
import imaplib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

_CONF = """
protocols = imap lmtp
auth_mechanisms = plain login
disable_plaintext_auth = no
base_dir = {base}/run
log_path = /dev/stderr
ssl = no
default_internal_user = {user}
default_internal_group = {group}
default_login_user = {user}
first_valid_uid = {uid}
first_valid_gid = {gid}
mail_uid = {uid}
mail_gid = {gid}
mail_home = {base}/mail/%Ld/%Ln/home/
mail_location = maildir:{base}/mail/%Ld/%Ln
maildir_stat_dirs = yes
mail_plugins = quota
namespace inbox {{
  inbox = yes
}}
passdb {{
  driver = static
  args = password={password}
}}
userdb {{
  driver = passwd-file
  args = username_format=%Lu {base}/users
}}
plugin {{
  quota = count:User quota
  quota_vsizes = yes
  quota_rule = *:bytes={default}
  quota_rule2 = Trash:storage=+50M
  quota_grace = 10%%
  quota_status_success = DUNNO
  quota_status_nouser = DUNNO
  quota_status_overquota = "552 5.2.2 Mailbox is full"
}}
service quota-status {{
  executable = quota-status -p postfix
  client_limit = 1
  unix_listener {base}/quota {{
    mode = 0666
  }}
}}
service lmtp {{
  inet_listener lmtp {{
    address = 127.0.0.1
    port = {lmtp}
  }}
  unix_listener {base}/lmtp {{
    mode = 0666
  }}
}}
service imap-login {{
  chroot =
  inet_listener imap {{
    address = 127.0.0.1
    port = {imap}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
service auth {{
  unix_listener {base}/auth {{
    mode = 0666
  }}
}}
service anvil {{
  chroot =
}}
service stats {{
  chroot =
}}
"""


PASSWORD = "s3cret"
"""Everybody's."""


class Dovecot:
    """Made by `dovecot`."""

    def __init__(self, base: Path, owner: tuple[int, int], imap: int, lmtp: int) -> None:
        self._base = base
        self._port = imap
        self._owner = owner
        self._process: subprocess.Popen[str]
        self.mail = base / "mail"
        """Root of the mailboxes: `<mail>/<domain>/<user>/`."""
        self.lmtp = lmtp
        """Port on loopback."""
        self.socket = base / "lmtp"
        self.auth = base / "auth"
        """Where Postfix asks for logins (smtpd_sasl_path)."""

    def start(self) -> None:
        """Until it listens."""
        self._hand_over()
        self._process = subprocess.Popen(
            ["dovecot", "-F", "-c", str(self._base / "dovecot.conf")], stderr=subprocess.PIPE, text=True, env=_environ()
        )
        assert self._process.stderr is not None
        said = self._process.stderr.readline()
        assert " starting up " in said, said + self._process.stderr.read()

    def stop(self) -> None:
        """Until it has ended, sessions and all."""
        self._process.terminate()
        self._process.communicate(timeout=20)

    def doveadm(self, *arguments: str, stdin: bytes = b"") -> str:
        self._hand_over()
        done = subprocess.run(
            ["doveadm", "-c", str(self._base / "dovecot.conf"), *arguments],
            input=stdin,
            capture_output=True,
            timeout=30,
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def imap(self, user: str) -> imaplib.IMAP4:
        """An IMAP session of `user`."""
        self._hand_over()
        session = imaplib.IMAP4("127.0.0.1", self._port, timeout=20)
        session.login(user, PASSWORD)
        return session

    def usage(self, user: str) -> int:
        """What `doveadm quota` says after a recalculation, in octets."""
        self.doveadm("quota", "recalc", "-u", user)
        status = self.doveadm("-f", "tab", "mailbox", "status", "-u", user, "vsize", "*")
        octets = sum(int(line.split("\t")[1]) for line in status.splitlines()[1:])
        assert self.kibibytes(user)[0] == -(-octets // 1024)
        return octets

    def kibibytes(self, user: str) -> tuple[int, int]:
        """Usage and limit as `doveadm quota get` has them: in KiB, rounded up; the limit 0 where there is none."""
        lines = self.doveadm("-f", "tab", "quota", "get", "-u", user).splitlines()
        (storage,) = (line.split("\t") for line in lines if "\tSTORAGE\t" in line)
        assert storage[0] == "User quota"
        return int(storage[2]), 0 if storage[3] == "-" else int(storage[3])

    def takes(self, user: str, size: int | None) -> bool:
        """What Postfix would hear from the policy service at RCPT; `size` None: MAIL declared none."""
        self._hand_over()
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(20)
            asking.connect(str(self._base / "quota"))
            asking.sendall(
                f"request=smtpd_access_policy\nprotocol_state=RCPT\nrecipient={user}\nsize={size or 0}\n\n".encode()
            )
            answer = asking.makefile("rb").readline().decode().strip()
        assert answer in ("action=DUNNO", "action=552 5.2.2 Mailbox is full"), answer
        return answer == "action=DUNNO"

    def _hand_over(self) -> None:
        """What a test that runs as root has written belongs to Dovecot's user, who may not be root."""
        if os.getuid() == 0:
            for path in (self.mail, *self.mail.rglob("*")):
                os.chown(path, *self._owner)


@contextmanager
def dovecot(limits: Mapping[str, str], default: str = "0") -> Iterator[Dovecot]:
    """Runs until the block is left. `limits` by user, as docker-mailserver's `dovecot-quotas.cf` has them."""
    base = Path(tempfile.mkdtemp(prefix="dovecot"))  # short: its sockets' names have 107 octets
    user = pwd.getpwuid(os.getuid()) if os.getuid() else pwd.getpwnam("nobody")
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        imap, lmtp = one.getsockname()[1], two.getsockname()[1]
    (base / "users").write_text(
        "".join(
            f"{user}:::::::" + (f"userdb_quota_rule=*:bytes={limit}" if limit else "") + "\n"
            for user, limit in limits.items()
        )
    )
    (base / "dovecot.conf").write_text(
        _CONF.format(
            base=base,
            user=user.pw_name,
            group=grp.getgrgid(user.pw_gid).gr_name,
            uid=user.pw_uid,
            gid=user.pw_gid,
            default=default,
            password=PASSWORD,
            imap=imap,
            lmtp=lmtp,
        )
    )
    (base / "mail").mkdir()
    base.chmod(0o755)
    server = Dovecot(base, (user.pw_uid, user.pw_gid), imap, lmtp)
    try:
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(base)


def _environ() -> dict[str, str]:
    return {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}
