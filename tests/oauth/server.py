"""A real authorization server (django-oauth-toolkit) with Lever's addresses and parameters, and an empty account behind it.

Everything is said by the environment: OAUTH_DB (a SQLite file), OAUTH_LEEWAY (seconds in which the last superseded refresh token
is still taken; 0: reuse ends the family), OAUTH_LIFE (seconds of an access token), OAUTH_SCOPES, OAUTH_PKCE (1: required).
"""

import os
import secrets

from django.conf import settings

settings.configure(
    SECRET_KEY=secrets.token_hex(32),
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF=__name__,
    USE_TZ=True,
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions", "oauth2_provider"],
    MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware", "django.contrib.auth.middleware.AuthenticationMiddleware"],
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "APP_DIRS": True,
            "OPTIONS": {"context_processors": ["django.template.context_processors.request"]},
        }
    ],
    # Tests sign in by a cookie that signs itself, so nothing is cached between workers.
    SESSION_ENGINE="django.contrib.sessions.backends.db",
    LOGIN_URL="/login",
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["OAUTH_DB"], "OPTIONS": {"timeout": 20}}},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    OAUTH2_PROVIDER={
        "SCOPES": {s: s for s in os.environ["OAUTH_SCOPES"].split()},
        "ACCESS_TOKEN_EXPIRE_SECONDS": int(os.environ.get("OAUTH_LIFE", "3600")),
        "ROTATE_REFRESH_TOKEN": True,
        "REFRESH_TOKEN_REUSE_PROTECTION": True,
        "REFRESH_TOKEN_GRACE_PERIOD_SECONDS": int(os.environ.get("OAUTH_LEEWAY", "0")),
        "PKCE_REQUIRED": os.environ.get("OAUTH_PKCE") == "1",
        "ALLOWED_REDIRECT_URI_SCHEMES": ["http", "https"],
    },
)

import django

django.setup()

from django.contrib.auth import get_user_model, login
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponseRedirect, JsonResponse
from django.urls import path
from oauth2_provider import views
from oauth2_provider.models import AccessToken


def sign_in(request):
    """The Super Admin of the only customer signs in without a password: what is tested comes after it."""
    login(request, get_user_model().objects.get(), backend="django.contrib.auth.backends.ModelBackend")
    return HttpResponseRedirect(request.GET["next"])


def listing(request, path):
    """An account that holds nothing, behind tokens that the server itself checks."""
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    found = AccessToken.objects.filter(token=token).first() if kind == "Bearer" else None
    if found is None or not found.is_valid():
        return JsonResponse({"code": "Unauthorized", "message": "The token is invalid or has ended."}, status=401)
    if path == "disposition_stages":
        return JsonResponse({"data": {"stages": [], "archiveReasons": []}})
    return JsonResponse({"data": [], "hasNext": False})


urlpatterns = [
    path("login", sign_in),
    path("authorize", views.AuthorizationView.as_view()),
    path("oauth/token", views.TokenView.as_view()),
    path("oauth/revoke", views.RevokeTokenView.as_view()),
    path("v1/<path:path>", listing),
]
application = get_wsgi_application()


def prepare(client_id, client_secret, callback):
    """Makes the tables, the Super Admin and the registered app."""
    from django.core.management import call_command
    from oauth2_provider.models import Application

    call_command("migrate", verbosity=0)
    user = get_user_model().objects.create_user("super-admin")
    Application.objects.create(
        name="hirelake",
        user=user,
        client_id=client_id,
        client_secret=client_secret,
        hash_client_secret=False,
        client_type=Application.CLIENT_CONFIDENTIAL,
        authorization_grant_type=Application.GRANT_AUTHORIZATION_CODE,
        redirect_uris=callback,
    )


if __name__ == "__main__":
    prepare(os.environ["OAUTH_CLIENT"], os.environ["OAUTH_SECRET"], os.environ["OAUTH_CALLBACK"])
