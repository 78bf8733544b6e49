"""Applications that send real mail to the harness, with their settings as Django and Flask have them."""

from __future__ import annotations

import ssl
from typing import Any

import django
import flask
import flask_mail
import pytest
from django.conf import settings as django_settings
from django.core import mail as django_mail
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import path

from smtproute.testing import Harness

TLS = [None, "starttls", "implicit"]


def _django_sign_up(request: HttpRequest) -> HttpResponse:
    address = request.POST["email"]
    letter = django_mail.EmailMultiAlternatives("Willkommen, Änne", "Hallo.", "app@example.org", [address])
    letter.attach_alternative("<p>Hallo.</p>", "text/html")
    letter.attach("bild.png", b"\x89PNG", "image/png")
    letter.send()
    return HttpResponse("sent")


urlpatterns = [path("sign-up", _django_sign_up)]
"""Of the Django application, which is this module."""


@pytest.fixture(scope="module", autouse=True)
def _configured() -> None:
    django_settings.configure(
        ROOT_URLCONF=__name__,
        ALLOWED_HOSTS=["testserver"],
        EMAIL_HOST="smtp.production.example",
    )
    django.setup()


@pytest.fixture
def trusted(smtproute: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """An application that verifies certificates trusts the relay's."""
    monkeypatch.setenv("SSL_CERT_FILE", smtproute.ca_file)


@pytest.mark.parametrize("tls", TLS)
@pytest.mark.parametrize("user", ["", "app@production.example"], ids=["nobody", "user"])
def test_django(smtproute: Harness, trusted: None, tls: Any, user: str) -> None:
    """With its login of production, or without one."""
    login = {"EMAIL_HOST_USER": user, "EMAIL_HOST_PASSWORD": "production's secret"} if user else {}
    with override_settings(**{**smtproute.settings(tls), **login}):
        assert Client().post("/sign-up", {"email": "anna@example.net"}).status_code == 200
    letter = smtproute.inbox.wait_for(to="anna@example.net", subject="Willkommen, Änne")
    smtproute.inbox.assert_none()
    assert (letter.sender, letter.text, letter.html) == ("app@example.org", "Hallo.", "<p>Hallo.</p>")
    assert [part.get_filename() for part in letter.email.iter_attachments()] == ["bild.png"]
    assert (f"logged in as {user} " in smtproute.trace(letter.message)) == bool(user)


def test_django_does_not_take_a_stranger_for_the_relay(smtproute: Harness) -> None:
    """Without the certificate's authority an application that verifies sends nothing."""
    with override_settings(**smtproute.settings("starttls")), pytest.raises(ssl.SSLCertVerificationError):
        django_mail.send_mail("Hello", "Hello.", "app@example.org", ["anna@example.net"])
    smtproute.inbox.assert_none()


def _flask(mail: flask_mail.Mail, settings: dict[str, Any]) -> flask.Flask:
    app = flask.Flask("application")
    app.config.update(settings)
    mail.init_app(app)

    @app.post("/sign-up")
    def sign_up() -> str:
        letter = flask_mail.Message("Welcome", [flask.request.form["email"]], "Hello.", sender="app@example.org")
        mail.send(letter)
        return "sent"

    return app


@pytest.mark.parametrize("tls", TLS)
@pytest.mark.parametrize("user", ["", "app@production.example"], ids=["nobody", "user"])
def test_flask(smtproute: Harness, trusted: None, tls: Any, user: str) -> None:
    settings = {**smtproute.settings(tls), "MAIL_USERNAME": user, "MAIL_PASSWORD": "production's secret"}
    app = _flask(flask_mail.Mail(), settings)
    assert app.test_client().post("/sign-up", data={"email": "anna@example.net"}).text == "sent"
    letter = smtproute.inbox.wait_for(to="anna@example.net")
    assert (letter.subject, letter.text) == ("Welcome", "Hello.\n")
    assert (f"logged in as {user} " in smtproute.trace(letter.message)) == bool(user)
    smtproute.inbox.assert_none()
