"""The table of examples that every router is tested on: what a request is, and where it goes.

Versions 1.3.0 to 1.7.0 are removed, draining, active, candidate and staged in most documents.
"""

from dataclasses import dataclass
from typing import Any

from safe_deploy.client import Json

NAMES = {"1.4.0": "shop140", "1.5.0": "shop150", "1.6.0": "shop160", "1.7.0": "Shop170"}
DRAWN = "drawn"
"""Instead of a Set-Cookie header: it is that of the drawn bucket."""


def sticky_token(version: str) -> str:
    return f"sticky-{version.replace('.', '')}-0123456789abcdef"


def override_token(version: str) -> str:
    return f"override-{version.replace('.', '')}-0123456789abcdef"


def visit(version: str, bucket: str) -> str:
    """A sticky cookie."""
    return f"release={sticky_token(version)}.{bucket}"


def set_cookie(version: str, bucket: str) -> str:
    """The Set-Cookie header that moves a visitor."""
    return f"{visit(version, bucket)}; Max-Age=3600; Path=/; HttpOnly; SameSite=Lax"


def build_document(
    *, active: str | None = "1.5.0", split: dict[str, int] | None = None, sticky_until: str | None = None
) -> Json:
    """The routing document as the server sends it. `sticky_until` is that of the draining release 1.4.0."""
    traffic = {active, *(split or {})}
    return {
        "revision": 12,
        "updatedAt": "2026-11-21T01:22:48.4438420Z",
        "active": active,
        "split": split,
        "app": "shop",
        "sticky": {"cookie": "release", "maxAgeSeconds": 3600},
        "override": {"cookie": "release-override", "header": "X-Release-Override"},
        "releases": {
            version: {
                "address": f"https://{task_hub.lower()}.azurewebsites.net",
                "taskHub": task_hub,
                "state": _state(version, traffic),
                "stickyToken": sticky_token(version),
                "overrideToken": override_token(version),
                "stickyUntil": sticky_until if version == "1.4.0" and version not in traffic else None,
            }
            for version, task_hub in NAMES.items()
        },
    }


def _state(version: str, traffic: set[str | None]) -> str:
    """The state of a release: served, drained from, or not yet promoted."""
    if version in traffic:
        return "Serving"
    return "Draining" if version == "1.4.0" else "Staged"


ACTIVE = build_document()
AT_10 = build_document(split={"1.5.0": 90, "1.6.0": 10})
AT_20 = build_document(split={"1.5.0": 80, "1.6.0": 20})
AT_50 = build_document(split={"1.5.0": 50, "1.6.0": 50})
NONE_ACTIVE = build_document(active=None)
KEEPING = build_document(sticky_until="2199-01-01T00:00:00.0000000Z")
KEEPING_AT_10 = build_document(split={"1.5.0": 90, "1.6.0": 10}, sticky_until="2199-01-01T00:00:00.0000000Z")
KEPT = build_document(sticky_until="2001-01-01T00:00:00.0000000Z")
ABORTED = build_document(active="1.5.0")
ABORTED["releases"]["1.6.0"]["state"] = "Draining"
NEXT_CANDIDATE = build_document(split={"1.5.0": 90, "1.7.0": 10})
NEXT_CANDIDATE["releases"]["1.6.0"]["state"] = "Draining"
ADOPTED = build_document(active=None)
ADOPTED["releases"]["1.4.0"]["state"] = "Serving"
REMOVING = build_document()
REMOVING["releases"]["1.4.0"]["state"] = "Removing"
ROLLED_BACK = build_document(active="1.4.0")
ROLLED_BACK["releases"]["1.5.0"]["state"] = "Draining"
DOCUMENTS = {
    "active": ACTIVE,
    "at 10": AT_10,
    "at 20": AT_20,
    "at 50": AT_50,
    "none active": NONE_ACTIVE,
    "keeping visitors": KEEPING,
    "keeping visitors at 10": KEEPING_AT_10,
    "visitors were kept": KEPT,
    "aborted": ABORTED,
    "next candidate": NEXT_CANDIDATE,
    "removing": REMOVING,
    "adopted": ADOPTED,
    "rolled back": ROLLED_BACK,
}


@dataclass(frozen=True, slots=True)
class Example:
    """One row. Without `version`, the router responds with `status`. Where a bucket is drawn, `version` is None too,
    because it depends on the bucket."""

    name: str
    document: str
    target: str
    method: str
    headers: tuple[tuple[str, str], ...]
    version: str | None
    status: int | None
    set_cookie: str | None


def _row(
    name: str,
    document: str,
    goes_to: str | int,
    *,
    target: str = "/orders?id=1",
    method: str = "GET",
    cookie: str | tuple[str, ...] = (),
    header: str | tuple[str, ...] = (),
    header_name: str = "X-Release-Override",
    set_cookie: str | None = None,
) -> Example:
    """An example: a request, and the release that it goes to, or the status that the router answers itself."""
    cookies = (cookie,) if isinstance(cookie, str) else cookie
    headers = (header,) if isinstance(header, str) else header
    return Example(
        name=name,
        document=document,
        target=target,
        method=method,
        headers=(
            *(("Cookie", value) for value in cookies),
            *((header_name, value) for value in headers),
        ),
        version=goes_to if isinstance(goes_to, str) and goes_to != DRAWN else None,
        status=goes_to if isinstance(goes_to, int) else None,
        set_cookie=DRAWN if goes_to == DRAWN else set_cookie,
    )


_MANAGEMENT = "/runtime/webhooks/durabletask"
_INSTANCE = f"{_MANAGEMENT}/instances/4f2c"
_STARTS = f"{_MANAGEMENT}/orchestrators"


def _management(name: str, goes_to: str | int, target: str, **others: Any) -> Example:
    """An example of a request to the management API, whose query names a task hub."""
    return _row(f"management: {name}", others.pop("document", "active"), goes_to, target=target, **others)


def _override(name: str, goes_to: str | int, **others: Any) -> Example:
    """An example of a request with an override token."""
    return _row(f"override: {name}", others.pop("document", "at 10"), goes_to, **others)


def _sticky(name: str, document: str, goes_to: str | int, **others: Any) -> Example:
    """An example of a request with the cookie of an earlier visit."""
    return _row(f"sticky: {name}", document, goes_to, **others)


def _override_cookie(version: str) -> str:
    """The cookie by which a visitor looks at a release before its promotion."""
    return f"release-override={override_token(version)}"


EXAMPLES: list[Example] = [
    # Management calls go to the owner of the task hub, with any cookies.
    _management("the active release", "1.5.0", f"{_INSTANCE}?taskHub=shop150&connection=Storage&code=k"),
    _management("a draining release", "1.4.0", f"{_INSTANCE}?taskHub=shop140&code=k"),
    _management("a staged release", "1.7.0", f"{_INSTANCE}?taskHub=Shop170"),
    _management("a release that is being removed", "1.4.0", f"{_INSTANCE}?taskHub=shop140", document="removing"),
    _management("in a split", "1.4.0", f"{_INSTANCE}?taskHub=shop140", document="at 10"),
    _management("no active release", "1.6.0", f"{_INSTANCE}?taskHub=shop160", document="none active"),
    _management("the value in another case", "1.4.0", f"{_INSTANCE}?taskHub=SHOP140"),
    _management("the value in another case than the document", "1.7.0", f"{_INSTANCE}?taskHub=shop170"),
    _management("the parameter in another case", "1.4.0", f"{_INSTANCE}?TASKHUB=shop140"),
    _management("the path in another case", "1.4.0", "/Runtime/WebHooks/DurableTask/instances/4f2c?taskHub=shop140"),
    _management("not the first parameter", "1.4.0", f"{_INSTANCE}?code=k&a=taskHub&taskHub=shop140&x=1"),
    _management("after similar parameters", "1.4.0", f"{_INSTANCE}?task=a&taskHubs=shop150&taskHu=b&taskHub=shop140"),
    _management("after a similar encoded parameter", "1.4.0", f"{_INSTANCE}?%74ask=a&ta%ask=b&%7=c&taskHub=shop140"),
    _management("without an instance", "1.4.0", f"{_MANAGEMENT}/instances?taskHub=shop140"),
    _management("entities", "1.4.0", f"{_MANAGEMENT}/entities/Counter/a?taskHub=shop140"),
    _management("an encoded path", "1.4.0", "/runtime/webhooks/%64urable%74ask/instances/a?taskHub=shop140"),
    _management("an encoded parameter", "1.4.0", f"{_INSTANCE}?task%48ub=shop140"),
    _management("an encoded value", "1.4.0", f"{_INSTANCE}?taskHub=%73hop%3140"),
    _management("repeated: the first counts", "1.4.0", f"{_INSTANCE}?taskHub=shop140&taskHub=shop150"),
    _management("repeated in other cases", "1.4.0", f"{_INSTANCE}?taskhub=shop140&taskHub=shop150"),
    _management("repeated with an unknown one first", 410, f"{_INSTANCE}?taskHub=other&taskHub=shop150"),
    _management("an unknown task hub", 410, f"{_INSTANCE}?taskHub=other"),
    _management("a removed release", 410, f"{_INSTANCE}?taskHub=shop130"),
    _management("a task hub that only begins as a known one", 410, f"{_INSTANCE}?taskHub=shop1500"),
    _management("a known task hub that begins as it", 410, f"{_INSTANCE}?taskHub=shop15"),
    _management("a pattern", 410, f"{_INSTANCE}?taskHub=.*"),
    _management("an empty task hub", 410, f"{_INSTANCE}?taskHub="),
    _management("two equals signs", 410, f"{_INSTANCE}?taskHub==shop140"),
    _management("a double encoding", 410, f"{_INSTANCE}?taskHub=%2573hop140"),
    _management("an unknown one with an override", 410, f"{_INSTANCE}?taskHub=other", header=override_token("1.5.0")),
    _management("before the override", "1.4.0", f"{_INSTANCE}?taskHub=shop140", header=override_token("1.7.0")),
    _management(
        "before the sticky cookie",
        "1.4.0",
        f"{_INSTANCE}?taskHub=shop140",
        cookie=visit("1.6.0", "05"),
        document="at 10",
    ),
    _management("no task hub", "1.5.0", f"{_INSTANCE}?code=k"),
    _management("a parameter without a value", "1.5.0", f"{_INSTANCE}?taskHub"),
    _management("no query", "1.5.0", _INSTANCE),
    _management("a start", "1.5.0", f"{_STARTS}/Order?taskHub=shop150", method="POST"),
    _management("a start without a task hub", "1.5.0", f"{_STARTS}/Order", method="POST"),
    _management("a start in a staged release", "1.5.0", f"{_STARTS}/Order?taskHub=shop170", method="POST"),
    _management(
        "a start with an override",
        "1.7.0",
        f"{_STARTS}/Order?taskHub=shop150",
        method="POST",
        header=override_token("1.7.0"),
    ),
    _management("a start in a draining release", 410, f"{_STARTS}/Order?taskHub=shop140", method="POST"),
    _management("a start of an unknown task hub", 410, f"{_STARTS}/Order?taskHub=other", method="POST"),
    _management("a start in another case", 410, f"{_MANAGEMENT}/Orchestrators/Order?taskHub=shop140", method="POST"),
    _management(
        "a start with encoded letters", 410, f"{_MANAGEMENT}/orchestrator%73/Order?taskHub=shop140", method="POST"
    ),
    _management(
        "a start behind two slashes", 410, f"{_MANAGEMENT}//orchestrators/Order?taskHub=shop140", method="POST"
    ),
    _management(
        "a start while visitors are kept",
        "1.5.0",
        f"{_STARTS}/Order?taskHub=shop140",
        method="POST",
        document="keeping visitors",
    ),
    # A release without traffic takes no new work.
    *(
        _management(
            f"{method} {path} while {document}",
            goes_to,
            f"{_MANAGEMENT}/{path}?taskHub=shop140&code=k",
            method=method,
            document=document,
        )
        for document in ("active", "removing")
        for method, path, goes_to in (
            ("POST", "instances/4f2c/raiseEvent/Approved", "1.4.0"),
            ("POST", "instances/4f2c/raiseEvent/restart", "1.4.0"),
            ("POST", "instances/4f2c/terminate", "1.4.0"),
            ("POST", "instances/4f2c/suspend", "1.4.0"),
            ("POST", "instances/4f2c/resume", "1.4.0"),
            ("POST", "Instances/4f2c/Term%69nate", "1.4.0"),
            ("DELETE", "instances/4f2c", "1.4.0"),
            ("DELETE", "instances", "1.4.0"),
            ("GET", "entities/Counter/a", "1.4.0"),
            ("OPTIONS", "instances/4f2c/terminate", "1.4.0"),
            ("POST", "instances/4f2c/restart", 410),
            ("POST", "instances/4f2c/rewind", 410),
            ("POST", "instances/4f2c/%72ewind", 410),
            ("POST", "instances/4f2c/Restart", 410),
            ("POST", "instances/restart", 410),
            ("POST", "entities/Counter/a", 410),
            ("PUT", "entities/Counter/a", 410),
            ("DELETE", "entities/Counter/a", 410),
            ("POST", "instances/@counter@a/raiseEvent/op", 410),
            ("POST", "instances/%40counter@a/raiseEvent/op", 410),
            ("POST", "instances/%4/terminate", "1.4.0"),
            ("POST", "instances/%/terminate", "1.4.0"),
            ("POST", "instances//terminate", 410),
            ("POST", "instances/4f2c/raiseEvent/", 410),
            ("DELETE", "instances/", "1.4.0"),
            ("DELETE", "instances/4f2c/history", 410),
            ("DELETE", "instancesx", 410),
            # These can lead elsewhere in the app.
            ("POST", "instances/../orchestrators/F/terminate", 410),
            ("POST", "instances/x/../../orchestrators/F/suspend", 410),
            ("POST", "instances/a/raiseEvent/../restart", 410),
            ("POST", "instances/%2e%2E/orchestrators/F/terminate", 410),
            ("POST", "instances/.%2e/orchestrators/F/terminate", 410),
            ("POST", "instances/%252e%252e/terminate", 410),
            ("POST", "instances/%25252e./terminate", 410),
            ("POST", "instances/a/raiseEvent/%252E", 410),
            ("POST", "instances/..%2forchestrators%2fF/terminate", 410),
            ("POST", "instances/x%252f..%252f/terminate", 410),
            ("POST", "instances/a/b/terminate", 410),
            ("POST", "instances/a%2Frewind/terminate", 410),
            ("POST", "instances/a%2fraiseEvent/restart", 410),
            ("POST", "instances/a%252fraiseEvent/terminate", 410),
            ("POST", "instances/a/raiseEvent/b%2fc", 410),
            ("POST", "instances/a%5Cb/terminate", 410),
            ("POST", "instances/a\\restart/terminate", 410),
            ("DELETE", "instances/../entities/x", 410),
            ("DELETE", "instances/%2e%2e/entities/x", 410),
            ("DELETE", "instances%2f..%2fentities", 410),
            ("DELETE", "instances/a%2f..", 410),
            ("DELETE", "instances/a%252fb", 410),
            ("GET", "instances/%252e%252e/x", 410),
            ("GET", "instances/a%2Fb", "1.4.0"),
            ("GET", "instances/a%252fb", "1.4.0"),
            ("GET", "instances/a..b", "1.4.0"),
            ("POST", "instances/a..b/terminate", "1.4.0"),
            ("POST", "instances/.../terminate", "1.4.0"),
            ("POST", "instances/..a/raiseEvent/.b", "1.4.0"),
        )
    ),
    _management(
        "dot segments in another path",
        410,
        "/x/../runtime/webhooks/durabletask/orchestrators/F?taskHub=shop140",
        method="POST",
    ),
    _management("double-encoded dot segments in another path", 410, "/x/%252e%252e/runtime?taskHub=shop140"),
    _management("double-encoded dots in an active release", 410, f"{_MANAGEMENT}/%252e%252e/x?taskHub=shop150"),
    _management("double-encoded dots without a task hub", "1.5.0", f"{_MANAGEMENT}/%252e%252e/x?code=k"),
    _management("a restart in the active release", "1.5.0", f"{_INSTANCE}/restart?taskHub=shop150", method="POST"),
    _management(
        "a signal in a staged release", "1.7.0", f"{_MANAGEMENT}/entities/Counter/a?taskHub=shop170", method="POST"
    ),
    _management(
        "a restart while visitors are kept",
        "1.4.0",
        f"{_INSTANCE}/restart?taskHub=shop140",
        method="POST",
        document="keeping visitors",
    ),
    _management(
        "a restart after visitors were kept",
        410,
        f"{_INSTANCE}/restart?taskHub=shop140",
        method="POST",
        document="visitors were kept",
    ),
    _management(
        "a restart in an adopted release",
        "1.4.0",
        f"{_INSTANCE}/restart?taskHub=shop140",
        method="POST",
        document="adopted",
    ),
    _management("a restart without a task hub", "1.5.0", f"{_INSTANCE}/restart", method="POST"),
    _management("a path that only begins as a start", "1.4.0", f"{_MANAGEMENT}/orchestratorsx?taskHub=shop140"),
    _management("another path", "1.5.0", "/orders?taskHub=shop140"),
    _management("a path that has it in the middle", "1.5.0", f"/x{_INSTANCE}?taskHub=shop140"),
    _management("a path that only begins as it", "1.5.0", "/runtime/webhooks/durabletasks/a?taskHub=shop140"),
    _management("the path in the query", "1.5.0", f"/orders?x={_INSTANCE}&taskHub=shop140"),
    # Override tokens.
    _override("a staged release by header", "1.7.0", header=override_token("1.7.0")),
    _override("a staged release by cookie", "1.7.0", cookie=_override_cookie("1.7.0")),
    _override("the candidate", "1.6.0", header=override_token("1.6.0")),
    _override("the active release", "1.5.0", cookie=_override_cookie("1.5.0")),
    _override("the header in another case", "1.7.0", header=override_token("1.7.0"), header_name="x-RELEASE-override"),
    _override("no active release", "1.7.0", header=override_token("1.7.0"), document="none active"),
    _override("an adopted release by header", "1.4.0", header=override_token("1.4.0"), document="adopted"),
    _override("an adopted release by cookie", "1.4.0", cookie=_override_cookie("1.4.0"), document="adopted"),
    _override("before the sticky cookie", "1.7.0", cookie=f"{visit('1.5.0', '50')}; {_override_cookie('1.7.0')}"),
    _override("header before cookie", "1.7.0", header=override_token("1.7.0"), cookie=_override_cookie("1.6.0")),
    _override("an unknown header, a known cookie", "1.7.0", header="unknown", cookie=_override_cookie("1.7.0")),
    _override("a draining release by header", "1.5.0", header=override_token("1.4.0"), document="active"),
    _override("a draining release by cookie", "1.5.0", cookie=_override_cookie("1.4.0"), document="active"),
    _override(
        "a draining release that keeps visitors", "1.5.0", cookie=_override_cookie("1.4.0"), document="keeping visitors"
    ),
    _override("an aborted release", "1.5.0", header=override_token("1.6.0"), document="aborted"),
    _override("a release that is being removed", "1.5.0", header=override_token("1.4.0"), document="removing"),
    _override("a sticky token", "1.5.0", header=sticky_token("1.7.0"), document="active"),
    _override(
        "a sticky token as cookie", "1.5.0", cookie=f"release-override={sticky_token('1.7.0')}", document="active"
    ),
    _override("a sticky cookie's value", "1.5.0", header=f"{sticky_token('1.7.0')}.05", document="active"),
    _override("an unknown token", "1.5.0", header="0123456789abcdef0123456789abcdef", document="active"),
    _override("an unknown token in a split", DRAWN, header="0123456789abcdef0123456789abcdef"),
    _override("an empty token", "1.5.0", header="", document="active"),
    _override("two headers", "1.6.0", header=(override_token("1.7.0"), override_token("1.6.0")), document="active"),
    _override("an unknown header and a known one", "1.7.0", header=("unknown", override_token("1.7.0"))),
    _override(
        "two tokens in a header",
        "1.5.0",
        header=f"{override_token('1.7.0')},{override_token('1.6.0')}",
        document="active",
    ),
    _override(
        "the name in another case as cookie",
        "1.5.0",
        cookie=f"Release-Override={override_token('1.7.0')}",
        document="active",
    ),
    _override(
        "the first cookie counts", "1.5.0", cookie=f"release-override=x; {_override_cookie('1.7.0')}", document="active"
    ),
    _override("token in another case", "1.5.0", header=override_token("1.7.0").upper(), document="active"),
    # Sticky cookies without a split.
    _sticky("no split, no cookie", "active", "1.5.0"),
    _sticky("no split, active release", "active", "1.5.0", cookie=visit("1.5.0", "07")),
    _sticky("no split, draining release", "active", "1.5.0", cookie=visit("1.4.0", "07")),
    _sticky("no split, staged release", "active", "1.5.0", cookie=visit("1.7.0", "07")),
    _sticky("after an abort", "aborted", "1.5.0", cookie=visit("1.6.0", "05")),
    _sticky("no active release", "none active", 503),
    _sticky("no active release, a cookie", "none active", 503, cookie=visit("1.5.0", "05")),
    _sticky("no active release, an adopted one", "adopted", 503, cookie=visit("1.4.0", "05")),
    _sticky("not kept after a rollback", "rolled back", "1.4.0", cookie=visit("1.5.0", "07")),
    # Visitors who stay after a promotion.
    _sticky("kept after promotion", "keeping visitors", "1.4.0", cookie=visit("1.4.0", "07")),
    _sticky("kept in a split", "keeping visitors at 10", "1.4.0", cookie=visit("1.4.0", "07")),
    _sticky("kept, of the active release", "keeping visitors", "1.5.0", cookie=visit("1.5.0", "07")),
    _sticky("kept, not a bucket", "keeping visitors", "1.5.0", cookie=visit("1.4.0", "7")),
    _sticky("no longer kept", "visitors were kept", "1.5.0", cookie=visit("1.4.0", "07")),
    # Buckets under growth, and under an abort.
    *(
        _sticky(
            f"of {version}, bucket {bucket}, {document}",
            document,
            goes_to,
            cookie=visit(version, bucket),
            set_cookie=cookie,
        )
        for version, bucket, document, goes_to, cookie in [
            ("1.6.0", "00", "at 10", "1.6.0", None),
            ("1.6.0", "09", "at 10", "1.6.0", None),
            ("1.5.0", "10", "at 10", "1.5.0", None),
            ("1.5.0", "99", "at 10", "1.5.0", None),
            ("1.6.0", "09", "at 20", "1.6.0", None),
            ("1.5.0", "10", "at 20", "1.6.0", set_cookie("1.6.0", "10")),
            ("1.5.0", "19", "at 20", "1.6.0", set_cookie("1.6.0", "19")),
            ("1.5.0", "20", "at 20", "1.5.0", None),
            ("1.6.0", "19", "at 50", "1.6.0", None),
            ("1.5.0", "49", "at 50", "1.6.0", set_cookie("1.6.0", "49")),
            ("1.5.0", "50", "at 50", "1.5.0", None),
            ("1.6.0", "49", "at 20", "1.5.0", set_cookie("1.5.0", "49")),
            ("1.6.0", "49", "at 10", "1.5.0", set_cookie("1.5.0", "49")),
            ("1.5.0", "05", "at 10", "1.6.0", set_cookie("1.6.0", "05")),
        ]
    ),
    # Cookies that do not count: a bucket is drawn.
    _sticky("none", "at 10", DRAWN),
    _sticky("of a draining release", "at 10", DRAWN, cookie=visit("1.4.0", "07")),
    _sticky("of a release that no longer keeps visitors", "next candidate", DRAWN, cookie=visit("1.6.0", "07")),
    _sticky("of a staged release", "at 10", DRAWN, cookie=visit("1.7.0", "07")),
    _sticky("of a removed release", "at 10", DRAWN, cookie=visit("1.3.0", "07")),
    _sticky("of an unknown release", "at 10", DRAWN, cookie="release=0123456789abcdef0123456789abcdef.07"),
    _sticky("an override token", "at 10", DRAWN, cookie=f"release={override_token('1.6.0')}.07"),
    _sticky("a version", "at 10", DRAWN, cookie="release=1.6.0"),
    _sticky("no bucket", "at 10", DRAWN, cookie=f"release={sticky_token('1.6.0')}"),
    _sticky("an empty bucket", "at 10", DRAWN, cookie=visit("1.6.0", "")),
    _sticky("one digit", "at 10", DRAWN, cookie=visit("1.6.0", "7")),
    _sticky("three digits", "at 10", DRAWN, cookie=visit("1.6.0", "007")),
    _sticky("a negative bucket", "at 10", DRAWN, cookie=visit("1.6.0", "-1")),
    _sticky("letters", "at 10", DRAWN, cookie=visit("1.6.0", "0x")),
    _sticky("more after the bucket", "at 10", DRAWN, cookie=visit("1.6.0", "07.07")),
    _sticky("a token and more", "at 10", DRAWN, cookie=f"release={sticky_token('1.6.0')}x.07"),
    _sticky("a pattern", "at 10", DRAWN, cookie="release=.*.07"),
    _sticky("token in another case", "at 10", DRAWN, cookie=visit("1.6.0", "07").replace("sticky", "STICKY")),
    _sticky("the name in another case", "at 10", DRAWN, cookie=visit("1.6.0", "07").replace("release", "Release")),
    _sticky("another cookie of a longer name", "at 10", DRAWN, cookie=f"x{visit('1.6.0', '07')}"),
    _sticky("very long", "at 10", DRAWN, cookie=f"release={'a' * 4000}.07"),
    _sticky("an empty value", "at 10", DRAWN, cookie="release="),
    _sticky("no value", "at 10", DRAWN, cookie="release"),
    _sticky("a blank before the equals sign", "at 10", DRAWN, cookie=visit("1.6.0", "07").replace("=", " =")),
    _sticky("a blank after the equals sign", "at 10", DRAWN, cookie=visit("1.6.0", "07").replace("=", "= ")),
    # Several cookies.
    _sticky("among others", "at 10", "1.6.0", cookie=f"a=b;;  {visit('1.6.0', '07')}; c=d=e; f"),
    _sticky("in quotes", "at 10", "1.6.0", cookie=visit("1.6.0", "07").replace("=", '="') + '"'),
    _sticky("the first counts", "at 10", "1.6.0", cookie=f"{visit('1.6.0', '07')}; {visit('1.5.0', '70')}"),
    _sticky("the first counts, reversed", "at 10", "1.5.0", cookie=f"{visit('1.5.0', '70')}; {visit('1.6.0', '07')}"),
    _sticky("an unknown one first", "at 10", DRAWN, cookie=f"release=x; {visit('1.6.0', '07')}"),
    _sticky("in two headers", "at 10", "1.6.0", cookie=("a=b", visit("1.6.0", "07"))),
    _sticky("in two headers, the first counts", "at 10", "1.6.0", cookie=(visit("1.6.0", "07"), visit("1.5.0", "70"))),
]

DOT_SEGMENT_TARGETS = [
    f"/runtime/webhooks/durabletask/{path}/api/start?taskHub=shop140"
    for path in ("../../..", "instances/../../../..", "%2e%2E/.%2e/..", "..%2f..%2f..", "..\\..\\..", "..%5c..%5C..")
]
"""Calls to a draining release that lead to one of its functions. API Management removes the segments by itself before a
policy sees them, or sees none."""

BUCKET_COOKIES = [visit(version, f"{bucket:02}") for version in ("1.5.0", "1.6.0") for bucket in range(100)]
"""The sticky cookies of all visitors of a split. A bucket has the same release in every router."""
