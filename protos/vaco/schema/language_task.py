"""What a language model is to learn: problems with answers, and how an answer earns its reward."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from vaco.schema.base import Broken, Cel, Part, Rule
from vaco.schema.imports import Import

Column = Annotated[str, Field(min_length=1, max_length=256)]
Place = Annotated[str, Field(min_length=1, max_length=4096)]
Operator = Literal["+", "-", "*"]

PROMPT = "{prompt}"
"""What `promptTemplate` has where the problem goes."""


class ArithmeticData(Part):
    """Arithmetic problems made on the spot: `37+5=` with the answer `42`."""

    type: Literal["arithmetic"] = Field(default="arithmetic", description="Kind of data.")
    digits: int = Field(default=2, ge=1, le=9, description="Digits of a number, at most.")
    terms: int = Field(default=2, ge=2, le=8, description="Numbers in one problem.")
    operators: list[Operator] = Field(
        default=["+"], min_length=1, max_length=3, description="What stands between the numbers."
    )
    problems: int = Field(
        default=4096,
        ge=1,
        le=10**7,
        description="Different problems to train on. There must be enough of them beside "
        "`heldOut`: two numbers of one digit make 100 sums.",
    )
    held_out: int = Field(
        default=256,
        ge=1,
        le=10**6,
        description="Different problems to evaluate on; none of them is trained on.",
    )
    seed: int = Field(default=0, ge=0, le=2**63 - 1, description="Seed of the problems.")


class JsonlData(Part):
    """Problems in files with one JSON object a line."""

    type: Literal["jsonl"] = Field(default="jsonl", description="Kind of data.")
    file: Place = Field(
        description="Problems to train on; relative to the manifest. On a cluster, an absolute "
        "path in the learner's and the actors' pods.",
    )
    held_out_file: Place | None = Field(
        default=None,
        description="Problems to evaluate on; null: `heldOutShare` of those in `file`.",
    )
    held_out_share: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="Share of the problems in `file` that are held out of training; not used with "
        "`heldOutFile`.",
    )
    prompt_column: Column = Field(default="prompt", description="Name of the problem's field.")
    answer_column: Column = Field(default="answer", description="Name of the answer's field.")


class HubData(Part):
    """Problems in a data set of the `datasets` library."""

    type: Literal["datasets"] = Field(default="datasets", description="Kind of data.")
    name: Place = Field(description="Name on the hub (`openai/gsm8k`), or path of a directory.")
    configuration: Column | None = Field(
        default=None, description="Configuration of the data set; null: its only one."
    )
    split: Column = Field(default="train", description="Split to train on.")
    held_out_split: Column = Field(default="test", description="Split to evaluate on.")
    prompt_column: Column = Field(default="question", description="Name of the problem's column.")
    answer_column: Column = Field(default="answer", description="Name of the answer's column.")


class MathReward(Part):
    """1 if the completion's last number, or boxed answer, is the answer; else 0."""

    type: Literal["math"] = Field(default="math", description="Kind of reward.")


class RegexReward(Part):
    """1 if what a pattern finds in the completion is the answer; else 0."""

    type: Literal["regex"] = Field(default="regex", description="Kind of reward.")
    pattern: str = Field(
        min_length=1,
        max_length=1024,
        description="Python's regular expression; its first group, or all it matches if it has "
        "none, is compared with the answer, without spaces around. The last match counts. A "
        "completion that it takes over 10 seconds for earns 0.",
    )


class PythonReward(Part):
    """What a function of the user's own returns."""

    type: Literal["python"] = Field(default="python", description="Kind of reward.")
    function: str = Field(
        max_length=512,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)+$",
        description="`module.function`, called with the problem, the completion and the answer, "
        "all of them text; it returns a finite number. `imports` names the module's file if it is "
        "not installed.",
    )


def _arithmetic_unless_said(value: object) -> object:
    return {"type": "arithmetic", **value} if isinstance(value, dict) else value


def _math_unless_said(value: object) -> object:
    return {"type": "math", **value} if isinstance(value, dict) else value


ProblemData = Annotated[
    ArithmeticData | JsonlData | HubData,
    Field(discriminator="type"),
    BeforeValidator(_arithmetic_unless_said),
]
RewardSpec = Annotated[
    MathReward | RegexReward | PythonReward,
    Field(discriminator="type"),
    BeforeValidator(_math_unless_said),
]


def _has_a_place_for_the_problem(task: "LanguageModelTask") -> Broken | None:
    if PROMPT in task.prompt_template:
        return None
    return Broken("it has no place for the problem", "Put the word prompt in braces where it goes.")


def _a_system_prompt_is_of_a_chat(task: "LanguageModelTask") -> Broken | None:
    if task.system_prompt is None or task.chat:
        return None
    return Broken(
        "only a chat template has a place for it",
        "Set `chat` to true, or put it into `promptTemplate`.",
    )


class LanguageModelTask(Part):
    """Problems for a language model, with rewards that can be verified."""

    type: Literal["languageModel"] = Field(default="languageModel", description="Kind of task.")
    data: ProblemData = Field(
        default=ArithmeticData(),
        description="Problems and answers; `arithmetic` when `type` is left out.",
    )
    prompt_template: str = Field(
        default=PROMPT,
        min_length=1,
        max_length=16384,
        description="The prompt, with {prompt} where the problem goes.",
    )
    chat: bool = Field(
        default=False,
        description="Whether the prompt becomes a user's message in the tokenizer's chat template.",
    )
    system_prompt: str | None = Field(
        default=None,
        max_length=16384,
        description="System message before it; only with `chat`. Null: none.",
    )
    reward: RewardSpec = Field(
        default=MathReward(),
        description="What an answer earns; `math` when `type` is left out.",
    )
    imports: list[Import] = Field(
        default=[],
        max_length=32,
        description="What is imported before the reward is looked up: the name of an installed "
        "module, or a Python file, whose path is relative to the manifest; on a cluster, give its "
        "absolute path in the actors' image.",
    )
    max_prompt_tokens: int = Field(
        default=512, ge=1, le=131072, description="Longest prompt, in tokens."
    )
    long_prompts: Literal["drop", "refuse"] = Field(
        default="drop",
        description="What happens to a problem whose prompt is longer. `drop`: it is left out, and "
        "how many are is logged; `refuse`: the job fails.",
    )
    max_completion_tokens: int = Field(
        default=512,
        ge=1,
        le=131072,
        description="Longest completion, in tokens, its end included; one that is cut there earns "
        "what it earns.",
    )
    reward_bound: float = Field(
        default=1e6,
        gt=0,
        description="Largest credible absolute reward of one completion. A reward beyond it, or "
        "one that is not a number, stops the run before it spoils the weights.",
    )

    rules = (
        Rule(
            ("prompt_template",),
            ("promptTemplate",),
            _has_a_place_for_the_problem,
            Cel(
                "!has(self.promptTemplate) || self.promptTemplate.contains('{prompt}')",
                "it has no place for the problem. Put the word prompt in braces where it goes.",
            ),
        ),
        Rule(
            ("system_prompt", "chat"),
            ("systemPrompt",),
            _a_system_prompt_is_of_a_chat,
            Cel(
                "!has(self.systemPrompt) || has(self.chat) && self.chat",
                "only a chat template has a place for it. "
                "Set `chat` to true, or put it into `promptTemplate`.",
            ),
        ),
    )
