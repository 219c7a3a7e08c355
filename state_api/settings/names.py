"""The names of all settings. docs/settings.md documents each, and a test compares the two."""

STATE_STORAGE = "STATE_STORAGE"
AZURE_WEB_JOBS_STORAGE = "AzureWebJobsStorage"
STATE_KEYS = "STATE_KEYS"
STATE_SHARDS = "STATE_SHARDS"
STATE_UNCLAIMED_TASK_HUBS = "STATE_UNCLAIMED_TASK_HUBS"
STATE_TASKHUB_SETTINGS = "STATE_TASKHUB_SETTINGS"
WEBSITE_AUTH_ENABLED = "WEBSITE_AUTH_ENABLED"
WEBSITE_SITE_NAME = "WEBSITE_SITE_NAME"

TASK_HUB_CONNECTION_PREFIX = "STATE_TASKHUBS_"
"""An app may use every setting whose name begins with this prefix as the connection of its task hubs."""

DOCUMENTED_SETTINGS = (
    STATE_STORAGE,
    f"{STATE_STORAGE}__tableServiceUri",
    f"{STATE_STORAGE}__accountName",
    f"{STATE_STORAGE}__clientId",
    AZURE_WEB_JOBS_STORAGE,
    f"{AZURE_WEB_JOBS_STORAGE}__tableServiceUri",
    f"{AZURE_WEB_JOBS_STORAGE}__accountName",
    f"{AZURE_WEB_JOBS_STORAGE}__clientId",
    STATE_KEYS,
    STATE_SHARDS,
    STATE_UNCLAIMED_TASK_HUBS,
    STATE_TASKHUB_SETTINGS,
    WEBSITE_AUTH_ENABLED,
    WEBSITE_SITE_NAME,
)
"""Every setting that `read_settings` reads."""
