"""Azure Functions entry of the sample app: which functions it has, and which version of the order's orchestrator."""

import os

import azure.durable_functions as df
import azure.functions as func

# In Azure this folder is the root of what is imported; durable_app/local puts it there, too.
from orders import DEFAULT_VERSION, VERSION_SETTING, api, monitor, payment, pricing, shipping, stock, v1, v2

VERSIONS = {"v1": v1.blueprint, "v2": v2.blueprint}
# A real app has one version of its code, and a deployment brings the next. Here both lie in one package, and a setting
# that is not slot-sticky, like the task hub's name, stands in for the deployment of other code.
VERSION = os.environ.get(VERSION_SETTING, DEFAULT_VERSION)

if VERSION not in VERSIONS:
    raise ValueError(f"{VERSION_SETTING} must be one of {', '.join(VERSIONS)}, not {VERSION}")

app = df.DFApp(http_auth_level=func.AuthLevel.FUNCTION)
for shared in (api, monitor, payment, pricing, shipping, stock):
    app.register_functions(shared.blueprint)
app.register_functions(VERSIONS[VERSION])
