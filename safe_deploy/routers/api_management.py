"""The policy that routes in Azure API Management. The policy itself follows the routing document: it is rendered again
only to renew its last resort, or after an update of safe-deploy.

The text is XML in which expressions are escaped, as the format `xml` of API Management takes it. Expressions are C# 7,
and use only the members of .NET that API Management allows: of `DateTime` few, of `DateTimeOffset` all.
"""

import json
import re
import string
from xml.sax.saxutils import escape, quoteattr

from safe_deploy.routers.documents import RoutingDocument
from safe_deploy.routers.rules import (
    CODED_SEPARATOR,
    CONTROL_PATTERN,
    DOT_SEGMENT_PATTERN,
    GONE,
    MANAGEMENT_PATH,
    PURGE_PATTERN,
    READING_METHODS,
    STARTS_PATH,
    TASK_HUB_PARAMETER,
    UNAVAILABLE,
)

MAX_POLICY_BYTES = 16 * 1024
"""The size of a policy in the Consumption tier. Other tiers take more."""

KEY_NAMED_VALUE = "safe-deploy-router-key"
"""The named value with the server's key, which must have the role `router`."""

CACHE_SECONDS = 15
FAILURE_SECONDS = 5
FETCH_TIMEOUT_SECONDS = 2
LAST_DOCUMENT_SECONDS = 24 * 3600


def render_policy(document: RoutingDocument, *, server_url: str) -> str:
    """The policy for the app of this document. `server_url` is the base URL of the server, without /api."""
    cache_key = f"safe-deploy-routing-{document.app_key}"
    expressions = _EXPRESSIONS | {
        "read_body": _READ_BODY.replace("APP", _text(document.app_key)),
        "route": _ROUTE.replace("LAST_RESORT", _text(_render_last_resort(document))),
    }
    return _POLICY.substitute(
        {name: _attribute(expression) for name, expression in expressions.items()},
        cache_key=quoteattr(cache_key),
        failure_key=quoteattr(f"{cache_key}-failed"),
        last_key=quoteattr(f"{cache_key}-last"),
        url=escape(f"{server_url}/api/apps/{document.app}/routing"),
        key=KEY_NAMED_VALUE,
        cookie=escape(f"@({_part(2)})"),
        timeout=FETCH_TIMEOUT_SECONDS,
        cache_seconds=CACHE_SECONDS,
        failure_seconds=FAILURE_SECONDS,
        last_seconds=LAST_DOCUMENT_SECONDS,
        gone=GONE,
        unavailable=UNAVAILABLE,
    )


def _render_last_resort(document: RoutingDocument) -> str:
    """A document with the active release only, as JSON with single quotes, which C# text holds without escapes.

    It has no tokens, so cookies do not count. `lastResort` marks that other task hubs are unknown, not gone.
    """
    releases = {
        version: {"address": release.address, "taskHub": release.task_hub, "state": "Serving"}
        for version, release in document.releases.items()
        if version == document.active
    }
    body = {
        "lastResort": True,
        "active": document.active,
        "split": None,
        "sticky": {"cookie": document.sticky_cookie},
        "override": {"cookie": document.override_cookie, "header": document.override_header},
        "releases": releases,
    }
    return json.dumps(body, separators=(",", ":")).replace('"', "'")


def _text(value: str) -> str:
    """The value as C# text. It must be free of quotes and backslashes, which the document's patterns make sure of."""
    assert not re.search(r'["\\]', value)
    return f'"{value}"'


def _attribute(expression: str) -> str:
    """The expression as an attribute. Line breaks and indentation become single blanks."""
    return quoteattr(" ".join(expression.split()), {'"': "&quot;"})


_READ_BODY = """@{
    var response = (IResponse)context.Variables["routingResponse"];
    if (response == null || response.StatusCode != 200) { return ""; }
    try {
        var text = response.Body.As<string>();
        var body = JObject.Parse(text);
        return ((string)body["app"]).ToLowerInvariant() == APP && body["releases"] is JObject ? text : "";
    } catch { return ""; }
}"""

_ANY_READING_METHOD = " || ".join(f'method == "{method}"' for method in READING_METHODS)

# A document stays cached for CACHE_SECONDS. So visits that end within that time have ended.
_ROUTE = f"""@{{
    var document = JObject.Parse(
        context.Variables.ContainsKey("routing") ? (string)context.Variables["routing"] : LAST_RESORT);
    var releases = (JObject)document["releases"];
    var active = (string)document["active"];
    var split = document["split"] as JObject;
    var sent = "/" + context.Request.Url.Path.TrimStart('/').ToLowerInvariant();
    var path = Uri.UnescapeDataString(sent).ToLowerInvariant();
    var has_dot_segment = Regex.IsMatch(path, @"{DOT_SEGMENT_PATTERN}");
    var cache_expiry = DateTimeOffset.UtcNow.AddSeconds({CACHE_SECONDS});
    if (has_dot_segment || path.IndexOf("{MANAGEMENT_PATH}", StringComparison.Ordinal) == 0) {{
        var method = context.Request.Method;
        var starts_nothing = {_ANY_READING_METHOD}
            || (!Regex.IsMatch(sent + path, @"{CODED_SEPARATOR}")
                && (Regex.IsMatch(path, "^{CONTROL_PATTERN}$")
                    || (method == "DELETE" && Regex.IsMatch(path, "^{PURGE_PATTERN}$"))));
        foreach (var parameter in context.Request.Url.QueryString.TrimStart('?').Split('&')) {{
            var end = parameter.IndexOf('=');
            if (end < 0) {{ continue; }}
            if (Uri.UnescapeDataString(parameter.Substring(0, end)).ToLowerInvariant()
                != "{TASK_HUB_PARAMETER.lower()}") {{ continue; }}
            if (has_dot_segment) {{ return "{GONE}||"; }}
            var hub = Uri.UnescapeDataString(parameter.Substring(end + 1)).ToLowerInvariant();
            var answer = document["lastResort"] == null ? "{GONE}||" : "{UNAVAILABLE}||";
            foreach (var release in releases.Properties()) {{
                if (((string)release.Value["taskHub"]).ToLowerInvariant() != hub) {{ continue; }}
                var state = (string)release.Value["state"];
                var until = (DateTimeOffset?)release.Value["stickyUntil"];
                var takes_new_work = state == "Staged" || state == "Serving"
                    || (until != null && until.Value > cache_expiry);
                if (takes_new_work || starts_nothing) {{
                    answer = "200|" + (string)release.Value["address"] + "|";
                }}
                if (takes_new_work && path.IndexOf("{STARTS_PATH}", StringComparison.Ordinal) == 0) {{
                    answer = null;
                }}
            }}
            if (answer != null) {{ return answer; }}
            break;
        }}
    }}
    string sticky = null;
    string chosen = null;
    if (context.Request.Headers.ContainsKey("Cookie")) {{
        foreach (var header in context.Request.Headers["Cookie"]) {{
            foreach (var part in header.Split(';')) {{
                var cookie = part.TrimStart(' ');
                var end = cookie.IndexOf('=');
                if (end < 0) {{ continue; }}
                var name = cookie.Substring(0, end);
                var value = cookie.Substring(end + 1);
                if (value.Length >= 2 && value[0] == '"' && value[value.Length - 1] == '"') {{
                    value = value.Substring(1, value.Length - 2);
                }}
                if (sticky == null && name == (string)document["sticky"]["cookie"]) {{ sticky = value; }}
                if (chosen == null && name == (string)document["override"]["cookie"]) {{ chosen = value; }}
            }}
        }}
    }}
    var header_name = (string)document["override"]["header"];
    var tokens = context.Request.Headers.ContainsKey(header_name)
        ? context.Request.Headers[header_name] : new string[0];
    for (var source = 0; source < 2; source++) {{
        foreach (var release in releases.Properties()) {{
            var state = (string)release.Value["state"];
            if (state != "Staged" && state != "Serving") {{ continue; }}
            var token = (string)release.Value["overrideToken"];
            if (token != null && (source == 0 ? tokens.Any(value => value.Trim() == token) : chosen == token)) {{
                return "200|" + (string)release.Value["address"] + "|";
            }}
        }}
    }}
    string last = null;
    var bucket = -1;
    var dot = sticky == null ? -1 : sticky.LastIndexOf('.');
    if (dot >= 0 && sticky.Length == dot + 3 && "0123456789".IndexOf(sticky[dot + 1]) >= 0
        && "0123456789".IndexOf(sticky[dot + 2]) >= 0) {{
        foreach (var release in releases.Properties()) {{
            if ((string)release.Value["stickyToken"] != sticky.Substring(0, dot)) {{ continue; }}
            if (release.Name == active || (split != null && split[release.Name] != null)) {{
                last = release.Name;
                bucket = int.Parse(sticky.Substring(dot + 1));
            }} else {{
                var until = (DateTimeOffset?)release.Value["stickyUntil"];
                if (until != null && until.Value > cache_expiry) {{
                    return "200|" + (string)release.Value["address"] + "|";
                }}
            }}
        }}
    }}
    if (active == null) {{ return "{UNAVAILABLE}||"; }}
    var version = active;
    var set_cookie = "";
    if (split != null) {{
        if (bucket < 0) {{ bucket = (int)(Convert.ToUInt32(Guid.NewGuid().ToString("N").Substring(0, 8), 16) % 100); }}
        foreach (var share in split.Properties()) {{
            if (share.Name != active && bucket < (int)share.Value) {{ version = share.Name; }}
        }}
        if (version != last) {{
            set_cookie = (string)document["sticky"]["cookie"] + "=" + (string)releases[version]["stickyToken"]
                + "." + bucket.ToString("00") + "; Max-Age=" + (string)document["sticky"]["maxAgeSeconds"]
                + "; Path=/; HttpOnly; SameSite=Lax";
        }}
    }}
    return "200|" + (string)releases[version]["address"] + "|" + set_cookie;
}}"""


def _part(number: int) -> str:
    """An expression for a part of the route: status, address, Set-Cookie header. Variables of a policy hold only basic
    types, so the route is text."""
    return f"((string)context.Variables[\"route\"]).Split('|')[{number}]"


_EXPRESSIONS = {
    "no_routing": '@(!context.Variables.ContainsKey("routing"))',
    "no_failure": '@(!context.Variables.ContainsKey("routingFailed"))',
    "has_body": '@((string)context.Variables["routingBody"] != "")',
    "body": '@((string)context.Variables["routingBody"])',
    "is_gone": f'@({_part(0)} == "{GONE}")',
    "has_status": f'@({_part(0)} != "200")',
    "address": f"@({_part(1)})",
    "has_cookie": f'@({_part(2)} != "")',
}
"""Values of attributes."""

_POLICY = string.Template("""<policies>
  <inbound>
    <base />
    <cache-lookup-value key=$cache_key variable-name="routing" />
    <choose>
      <when condition=$no_routing>
        <cache-lookup-value key=$failure_key variable-name="routingFailed" />
        <choose>
          <when condition=$no_failure>
            <send-request mode="new" response-variable-name="routingResponse" timeout="$timeout" ignore-error="true">
              <set-url>$url</set-url>
              <set-method>GET</set-method>
              <set-header name="x-functions-key" exists-action="override">
                <value>{{$key}}</value>
              </set-header>
            </send-request>
            <set-variable name="routingBody" value=$read_body />
            <choose>
              <when condition=$has_body>
                <set-variable name="routing" value=$body />
                <cache-store-value key=$cache_key value=$body duration="$cache_seconds" />
                <cache-store-value key=$last_key value=$body duration="$last_seconds" />
              </when>
              <otherwise>
                <cache-store-value key=$failure_key value="failed" duration="$failure_seconds" />
              </otherwise>
            </choose>
          </when>
        </choose>
      </when>
    </choose>
    <choose>
      <when condition=$no_routing>
        <cache-lookup-value key=$last_key variable-name="routing" />
      </when>
    </choose>
    <set-variable name="route" value=$route />
    <choose>
      <when condition=$is_gone>
        <return-response>
          <set-status code="$gone" reason="Gone" />
          <set-body>No release with this task hub takes this call.</set-body>
        </return-response>
      </when>
      <when condition=$has_status>
        <return-response>
          <set-status code="$unavailable" reason="Service Unavailable" />
          <set-body>No release is known for this request.</set-body>
        </return-response>
      </when>
    </choose>
    <set-header name="X-Forwarded-Host" exists-action="override">
      <value>@(context.Request.OriginalUrl.Host)</value>
    </set-header>
    <set-header name="Forwarded" exists-action="delete" />
    <set-backend-service base-url=$address />
  </inbound>
  <backend>
    <base />
  </backend>
  <outbound>
    <base />
    <choose>
      <when condition=$has_cookie>
        <set-header name="Set-Cookie" exists-action="append">
          <value>$cookie</value>
        </set-header>
      </when>
    </choose>
  </outbound>
  <on-error>
    <base />
  </on-error>
</policies>
""")
