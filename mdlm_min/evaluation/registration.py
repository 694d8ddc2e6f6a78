"""The model's name in lm-eval. From its next release on lm-eval finds it by the entry point in pyproject.toml."""

NAME, PLACE = "mdlm", "mdlm_min.evaluation.harness:MDLM"


def register() -> None:
    """Make `--model mdlm` known to lm-eval; twice does no harm."""
    import lm_eval.models  # noqa: F401 - a model that is registered before this import would stay the only one
    from lm_eval.api.registry import model_registry

    if NAME not in model_registry:
        model_registry.register(NAME, target=PLACE)
