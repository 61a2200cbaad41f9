"""
Django with Channels on several workers: `realtime serve --workers 4 --sticky session examples/django/app.py`.

A project in one file. Its sessions are in the memory of each process (`LocMemCache`), as Django has its cache where
nothing is configured: right on several workers only because a visitor always meets the same one. What is said in a
chat goes to the others through the channel layer: set CHANNELS_REDIS to a Redis URL, and it reaches all workers.
"""

from __future__ import annotations

import os
from typing import Any

import django
from django.conf import settings

REDIS = os.environ.get("CHANNELS_REDIS")
IN_MEMORY = {"BACKEND": "channels.layers.InMemoryChannelLayer"}
IN_REDIS = {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": {"hosts": [REDIS]}}

settings.configure(
    SECRET_KEY=os.environ.get("DJANGO_SECRET_KEY", "an example has no secrets, and signs nothing"),
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["django.contrib.sessions", "channels"],
    MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"],
    SESSION_ENGINE="django.contrib.sessions.backends.cache",
    CACHES={"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}},
    CHANNEL_LAYERS={"default": IN_REDIS if REDIS else IN_MEMORY},
)
django.setup()

# Django wants its settings before the rest of it is imported.
from channels.generic.websocket import AsyncJsonWebsocketConsumer  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from channels.sessions import SessionMiddlewareStack  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402
from django.http import HttpRequest, JsonResponse  # noqa: E402
from django.urls import path  # noqa: E402


def visit(request: HttpRequest) -> JsonResponse:
    """Count this visitor's visits, in his session."""
    visits = request.session["visits"] = request.session.get("visits", 0) + 1
    return JsonResponse({"visits": visits, "pid": os.getpid()})


class Chat(AsyncJsonWebsocketConsumer):
    """One person in one room. It greets him with what his session knows, and tells the room what he says."""

    async def connect(self) -> None:
        self.room = self.scope["url_route"]["kwargs"]["room"]
        await self.channel_layer.group_add(self.room, self.channel_name)
        await self.accept()
        await self.send_json({"visits": self.scope["session"].get("visits", 0), "pid": os.getpid()})

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard(self.room, self.channel_name)

    async def receive_json(self, content: Any, **more: Any) -> None:
        await self.channel_layer.group_send(self.room, {"type": "said", "text": content["text"]})

    async def said(self, event: dict[str, Any]) -> None:
        """Pass on what somebody said."""
        await self.send_json({"text": event["text"]})


urlpatterns = [path("", visit)]
sockets = URLRouter([path("chat/<slug:room>", Chat.as_asgi())])
app = ProtocolTypeRouter({"http": get_asgi_application(), "websocket": SessionMiddlewareStack(sockets)})
