"""What all kinds of settings share: their error, immutable models, and the check for unresolved Key Vault
references."""

from pydantic import BaseModel, ConfigDict

_KEY_VAULT_REFERENCE = "@microsoft.keyvault("
"""The beginning of a Key Vault reference, in lower case."""


class SettingsError(Exception):
    """A setting is missing or wrong. The message names the setting and says how to correct it; it holds no secret."""


class FrozenModel(BaseModel):
    """An immutable model that rejects unknown members and shows no input in its errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


def reject_unresolved_reference(name: str, value: str) -> None:
    """Raises SettingsError if the value of the setting `name` is a Key Vault reference: Azure passes the reference
    itself to the app when it cannot resolve it."""
    if value.lstrip().lower().startswith(_KEY_VAULT_REFERENCE):
        raise SettingsError(
            f"{name} is a Key Vault reference that Azure has not resolved: give the Function App's identity the role "
            "Key Vault Secrets User on the vault, check the reference and the vault's firewall, and restart"
        )
