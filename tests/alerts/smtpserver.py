"""A small SMTP server on loopback: STARTTLS if it has a certificate, a login if it has a password."""

from __future__ import annotations

import base64
import socketserver
import ssl
from email import message_from_bytes, policy
from email.message import EmailMessage
from threading import Thread

__all__ = ["SmtpServer"]


class SmtpServer:
    """Takes mails.

    Attributes:
        mails: What was taken, each with whether it came encrypted and who had logged in.
        answer: What is said to a mail.
    """

    def __init__(self, cert: tuple[str, str] | None = None, login: tuple[str, str] | None = None):
        self.cert, self.login, self.answer = cert, login, "250 taken"
        self.mails: list[tuple[EmailMessage, bool, str]] = []
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                talk = _Talk(outer, self)
                try:
                    talk.run()
                finally:
                    talk.read.close()
                    self.connection.close()

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Talk:
    def __init__(self, server: SmtpServer, handler: socketserver.StreamRequestHandler):
        self.server, self.handler = server, handler
        self.secure, self.user = False, ""
        self.read = handler.rfile

    def say(self, text: str) -> None:
        self.handler.connection.sendall(f"{text}\r\n".encode())

    def run(self) -> None:
        self.say("220 here")
        while line := self.read.readline().decode().strip():
            verb = line.split()[0].upper()
            if verb == "QUIT":
                self.say("221 bye")
                return
            getattr(self, f"on_{verb.lower()}", self.on_other)(line)

    def on_ehlo(self, line: str) -> None:
        more = ["STARTTLS"] if self.server.cert and not self.secure else []
        more += ["AUTH PLAIN"] if self.server.login and (self.secure or not self.server.cert) else []
        rows = ["here", *more]
        for row in rows[:-1]:
            self.say(f"250-{row}")
        self.say(f"250 {rows[-1]}")

    def on_starttls(self, line: str) -> None:
        assert self.server.cert is not None
        self.say("220 go")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.server.cert)
        self.handler.connection = context.wrap_socket(self.handler.connection, server_side=True)
        self.read = self.handler.connection.makefile("rb")
        self.secure = True

    def on_auth(self, line: str) -> None:
        _, user, password = base64.b64decode(line.split()[2]).decode().split("\0")
        right = (user, password) == self.server.login
        self.user = user if right else ""
        self.say("235 welcome" if right else "535 no")

    def on_data(self, line: str) -> None:
        self.say("354 go")
        body = b""
        while (row := self.read.readline()) != b".\r\n":
            body += row
        if self.server.answer.startswith("250"):
            mail = message_from_bytes(body, policy=policy.default)
            assert isinstance(mail, EmailMessage)
            self.server.mails.append((mail, self.secure, self.user))
        self.say(self.server.answer)

    def on_other(self, line: str) -> None:
        self.say("250 fine")
