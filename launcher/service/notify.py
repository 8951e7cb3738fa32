"""Send starts and failures to a webhook. A separate process posts the message, and nothing waits for it.

The URL is a secret: whoever has it can post. The message contains no secret.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from ..config.settings import Settings, app_environment
from ..system.detach import beside
from ..ui import text

if TYPE_CHECKING:
    import urllib.request

_REQUEST_SECONDS = 10.0
_SECONDS = 20
_HOST = re.compile(r"https?://([^/?#]*)", re.IGNORECASE)
_FEISHU = ("feishu.cn", "larksuite.com")
_DINGTALK = ("dingtalk.com",)

Event = Literal["started", "ready", "failed", "refused"]


def notify(settings: Settings, environ: Mapping[str, str], event: Event, message: str) -> None:
    """Post an event to the webhook that the settings name; without a free process slot, skip it."""
    if settings.notify_url is None:
        return
    url = settings.notify_url.value
    line = text.clean(f"{settings.script.name} on {os.uname().nodename}, port {settings.port}: {event}: {message}")
    environment = app_environment(settings, environ)
    try:
        beside(lambda: post(url, payload(url, line), environment), seconds=_SECONDS)
    except OSError:
        pass  # no free process slot; the launch continues


def payload(url: str, line: str) -> Mapping[str, Any]:
    """Return the message in the format of this host's webhook; the default is Slack's format.

    https://api.slack.com/messaging/webhooks, https://open.feishu.cn/document/client-docs/bot-v3/add-custom-bot,
    https://open.dingtalk.com/document/orgapp/custom-robots-send-group-messages
    """
    host = _host(url)
    if _within(host, _FEISHU):
        return {"msg_type": "text", "content": {"text": line}}
    if _within(host, _DINGTALK):
        return {"msgtype": "text", "text": {"content": line}}
    return {"text": line}


def post(url: str, document: Mapping[str, Any], environment: Mapping[str, str]) -> None:
    """Post a document as JSON, through the proxy that the app's environment names.

    Raises what urllib raises. A redirect is not followed: it would send the message elsewhere.
    """
    import urllib.request

    class NoRedirect(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_: Any) -> None:
            return None

    request = urllib.request.Request(
        url,
        data=json.dumps(document).encode(),
        headers={"Content-Type": "application/json; charset=utf-8", "User-Agent": "start_app"},
        method="POST",
    )
    opener = urllib.request.build_opener(NoRedirect, _proxies(_host(url), environment))
    opener.open(request, timeout=_REQUEST_SECONDS).close()


def _proxies(host: str, environment: Mapping[str, str]) -> urllib.request.ProxyHandler:
    import urllib.request

    proxies: dict[str, str] = {}
    for kind in ("http", "https", "no"):
        value = environment.get(f"{kind}_proxy") or environment.get(f"{kind}_proxy".upper())
        if value:
            proxies[kind] = value
    bypassed = urllib.request.proxy_bypass_environment(host, proxies)  # type: ignore[attr-defined]
    return urllib.request.ProxyHandler({} if bypassed else proxies)


def _host(url: str) -> str:
    match = _HOST.match(url)
    return match[1].rpartition("@")[2].lower() if match else ""


def _within(host: str, domains: tuple[str, ...]) -> bool:
    name = host.partition(":")[0]
    return any(name == domain or name.endswith(f".{domain}") for domain in domains)
