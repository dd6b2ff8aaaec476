"""What was begun on a command line becomes the names that a shell may offer; opens no weights."""

from tinyv_cli.errors import WeightsError


def list_models(begun: str) -> list[str]:
    """Lists the names of variants that go on as begun; none where their folder cannot be read."""
    from tinyv_cli.variants.home import list_names

    try:
        return [each for each in list_names() if each.startswith(begun)]
    except WeightsError:
        return []


def list_tasks(begun: str) -> list[str]:
    """Lists the tasks that go on as begun."""
    from tinyv_cli.prompts.tasks import TASKS

    return [each for each in TASKS if each.startswith(begun)]


def list_templates(begun: str) -> list[str]:
    """Lists the prompt templates that go on as begun."""
    from tinyv_cli.prompts.prompt import TEMPLATES

    return [each for each in TEMPLATES if each.startswith(begun)]


def list_devices(begun: str) -> list[str]:
    """Lists the kinds of devices that go on as begun."""
    return [each for each in ("auto", "cpu", "cuda") if each.startswith(begun)]
