"Prompts to the letter, and the answer in whatever stands around it"
import re

import pytest
from conftest import ROOT

from aligners_nb.criterion import Criterion, DataError, Demonstration, LLMError, criteria
from aligners_nb.prompts import (
    DRAFT_SCHEMA, STOP, THOUGHT_MARKS, anew_messages, assistant, clean_reply, conversation, correct_messages,
    critique_messages, draft_json_messages, draft_prompt, format_demonstration, formats_hash, parse_answer, preamble,
    questions_prompt, respond_messages, system, topics_prompt, user, with_principles)

QUESTION = "How long should I boil an egg?"
EGG = Demonstration("Why?", "Fool.", "It insults.", "Because.")
BARE, SHOWN = Criterion("polite", ["Never insult.", "Be brief."]), Criterion("polite", ["Never insult."], [EGG])


def test_the_embedded_model_was_trained_on_these_formats():
    card = (ROOT/"aligners_nb/town_weights/README.md").read_text()
    assert re.findall(r"Formats (\w+)\.", card) == [formats_hash()] == ["fc3d659103cd"]


def test_the_one_call_prompt():
    prompt = draft_prompt(SHOWN, QUESTION)
    assert prompt.startswith(preamble(SHOWN) + "\n\n" + format_demonstration(EGG))
    assert prompt.endswith(f"\n\nQuestion: {QUESTION}\nResponse:")
    assert "Go on with these three lines" not in prompt
    assert "Go on with these three lines" in draft_prompt(BARE, QUESTION)
    assert "1. Never insult.\n2. Be brief." in preamble(BARE)


def test_a_completion_stops_where_the_next_example_would_begin():
    examples = draft_prompt(SHOWN, QUESTION)
    assert STOP[0] in examples and "\n\n" not in STOP


def test_topics_and_questions_are_listed():
    assert topics_prompt(BARE, "cooking", ["Eggs", "Bread"], 5).startswith("List 5 new topics")
    assert "Known topics: Eggs; Bread\nNew topics:\n-" in topics_prompt(BARE, "cooking", ["Eggs", "Bread"])
    prompt = questions_prompt(BARE, [("cooking", "Eggs", QUESTION)], [("cooking", "Bread"), ("nature", "Owls")])
    assert f"cooking | Eggs | {QUESTION}" in prompt
    assert prompt.endswith("Hints:\ncooking | Bread\nnature | Owls\n\nQuestions:\n")


@pytest.mark.parametrize("question", [
    3, None, [], (), ["How?"],
    [dict(role="user")], [dict(role="robot", content="How?")], [dict(role="user", content=5)],
    [user("How?"), assistant("So.")], [system("You are a cook.")], dict(role="user", content="How?"), (user("How?"),),
])
def test_a_question_is_a_string_or_messages(question):
    with pytest.raises(DataError, match="a string or a list of messages .*: a text} that ends with the user's; got"):
        conversation(question)


def test_a_conversation_is_a_new_list():
    messages = [user("How?"), assistant("So."), user("Why?")]
    assert conversation(messages) == messages and conversation(messages) is not messages
    assert conversation("How?") == [user("How?")]


def test_there_is_one_system_message():
    asked = [system("You are a cook."), user(QUESTION)]
    assert with_principles(BARE, asked) == [system("You are a cook.\n\n" + preamble(BARE)), user(QUESTION)]
    assert asked == [system("You are a cook."), user(QUESTION)]
    for messages in (critique_messages(BARE, asked, "Ten."), correct_messages(BARE, asked, "Ten.", "It is curt.")):
        assert [message["role"] for message in messages].count("system") == 1
        assert messages[-1]["role"] == "user"


def test_a_critique_is_shown_if_there_is_one():
    without, shown = correct_messages(BARE, QUESTION, "Ten."), correct_messages(BARE, QUESTION, "Ten.", "It is curt.")
    assert len(shown) == len(without) + 2 and shown[-2] == assistant("It is curt.")


def test_demonstrations_are_turns():
    assert respond_messages(SHOWN, QUESTION)[1:] == [user("Why?"), assistant("Fool."), user(QUESTION)]
    assert respond_messages(BARE, QUESTION) == [system("Write a first draft of an answer."), user(QUESTION)]
    shown = draft_json_messages(SHOWN, QUESTION)
    assert shown[2] == assistant('{"response": "Fool.", "critique": "It insults.", "correction": "Because."}')
    assert "with the keys response, critique, correction" in draft_json_messages(BARE, QUESTION)[0]["content"]
    assert DRAFT_SCHEMA["required"] == list(DRAFT_SCHEMA["properties"])


def test_principles_of_several_criteria_are_numbered_through():
    text = anew_messages([criteria.ethical, criteria.helpful], QUESTION)[0]["content"]
    assert re.findall(r"^(\d+)\.", text, re.M) == ["1", "2", "3", "4", "5", "6"]
    assert anew_messages(BARE, QUESTION) == anew_messages([BARE], QUESTION)


@pytest.mark.parametrize("reply", [
    "Eight minutes.",
    "\n\n Eight minutes. \n",
    "```text\nEight minutes.\n```",
    "```\nEight minutes.\n```  ",
    "<|im_start|>assistant\nEight minutes.<|im_end|>\n<|im_start|>user\nWhy?",
    "<|start_header_id|>assistant<|end_header_id|>\n\nEight minutes.<|eot_id|>",
    "Eight minutes.</s>The end.",
    "Eight minutes.<end_of_turn>\n",
    f"Question: {QUESTION}\nEight minutes.",
    f"<|im_start|>assistant\n<think>An egg.</think>\n```\nQuestion: {QUESTION}\n\nEight minutes.\n```<|im_end|>",
])
def test_what_stands_around_an_answer_goes(reply):
    assert parse_answer(reply) == clean_reply(reply) == "Eight minutes."


@pytest.mark.parametrize("answer", [
    "As in:\n```\n<b>egg</b>\n```\nThat is all.",
    "```\na\n```\nor\n```\nb\n```",
    "If a < b, think |twice|.",
    "Eight\n\nminutes.",
    "The question: how long?",
    "You need:\n- flour\n- eggs",
])
def test_near_misses_lose_nothing(answer):
    assert parse_answer(f" {answer}\n") == answer


ANSWER_CHANNEL = "<|start|>assistant<|channel|>final<|message|>"
THOUGHTS = {
    "DeepSeek, Qwen": "<think>\nThey ask…\n</think>\n\nAt nine.",
    "in capitals": "<THINK>They ask…</THINK>At nine.",
    "thinking": "<thinking>They ask…</thinking>At nine.",
    "closed in another way": "<thinking>They ask…</think>At nine.",
    "empty": "<think>\n\n</think>\n\nAt nine.",
    "opened by the template": "They ask…</think>At nine.",
    "behind the start of a turn": "<|im_start|>assistant\n<think>They ask…</think>At nine.<|im_end|>",
    "with an answer's marks": "<think>They ask…</think>\n<answer>At nine.</answer>\nGood luck!",
    "Seed-OSS": "<seed:think>They ask…</seed:think>At nine.",
    "MiniMax": "<mm:think>They ask…</mm:think>At nine.",
    "EXAONE Deep": "<thought>\nThey ask…\n</thought>\n\nAt nine.",
    "EXAONE Deep, opened by the template": "They ask…\n</thought>\n\nAt nine.",
    "reasoning": "<reasoning>They ask…</reasoning>\nAt nine.",
    "reasoning and answer": "<reasoning>\nThey ask…\n</reasoning>\n<answer>\nAt nine.\n</answer>",
    "reason": "<reason>They ask…</reason>At nine.",
    "analysis": "<analysis>They ask…</analysis>\n<response>At nine.</response>",
    "reflection": "<reflection>They ask…</reflection><output>At nine.</output>",
    "scratchpad": "<scratchpad>They ask <analysis>it</analysis>…</scratchpad>At nine.",
    "Magistral": "[THINK]They ask…[/THINK]At nine.</s>",
    "Magistral, opened by the template": "They ask…[/THINK]At nine.",
    "Kimi": "◁think▷They ask…◁/think▷At nine.",
    "OpenThinker": "<|begin_of_thought|>They ask…<|end_of_thought|>\n\n"
                   "<|begin_of_solution|>\nAt nine.\n<|end_of_solution|>",
    "Command A": "<|START_THINKING|>They ask…<|END_THINKING|><|START_RESPONSE|>At nine.<|END_RESPONSE|>",
    "Command A, opened by the template": "They ask…<|END_THINKING|><|START_TEXT|>At nine.<|END_TEXT|>",
    "Apertus": "<|inner_prefix|>They ask…<|inner_suffix|>At nine.",
    "s1": "<|im_start|>think\nThey ask…\n<|im_start|>answer\nAt nine.<|im_end|>",
    "MedGemma": "<unused94>thought\nThey ask…<unused95>At nine.",
    "openPangu": "[unused16]They ask…[unused17]At nine.",
    "Gemma 4": "<|channel>thought\nThey ask…<channel|>At nine.",
    "gpt-oss": f"<|channel|>analysis<|message|>They ask…<|end|>{ANSWER_CHANNEL}At nine.<|return|>",
    "gpt-oss with its turn": "<|start|>assistant<|channel|>analysis<|message|>They ask…<|end|>"
                             f"{ANSWER_CHANNEL}At nine.",
    "gpt-oss, two channels": "<|channel|>analysis<|message|>They ask…<|end|>"
                             f"<|start|>assistant<|channel|>commentary<|message|>Hm.<|end|>{ANSWER_CHANNEL}At nine.",
    "gpt-oss, held to JSON": "<|channel|>analysis<|message|>They ask…<|end|>"
                             "<|start|>assistant<|channel|>final <|constrain|>json<|message|>At nine.",
    "gpt-oss, thoughts cut away": "<|channel|>final<|message|>At nine.<|return|>",
    "gpt-oss, turn without thoughts": f"{ANSWER_CHANNEL}At nine.<|return|>",
    "gpt-oss, opened by the template": f"They ask…<|end|>{ANSWER_CHANNEL}At nine.",
    "gpt-oss, channel from the template": f"analysis<|message|>They ask…<|end|>{ANSWER_CHANNEL}At nine.",
    "gpt-oss without control tokens": "analysisThey ask…assistantfinalAt nine.",
    "Granite": "Here is my thought process:\nThey ask…\n\nHere is my response:\nAt nine.",
    "Granite, short": "Here's my thought process: They ask… Here's my response: At nine.",
}


@pytest.mark.parametrize("model", THOUGHTS)
def test_thoughts_go(model):
    assert parse_answer(THOUGHTS[model]) == "At nine."


def cut(reply):
    "A reply that breaks off early in its thoughts; None if it does not show that they begin"
    begin, _, rest = reply.partition("They ask")
    return f"{begin}They ask" if begin and rest else None


@pytest.mark.parametrize("model", [model for model, reply in THOUGHTS.items() if cut(reply)])
def test_a_reply_that_breaks_off_while_thinking_says_so(model):
    reply = cut(THOUGHTS[model])
    assert clean_reply(reply) == ""
    with pytest.raises(LLMError, match="breaks off while the model is thinking: allow it more tokens"):
        parse_answer(reply)


@pytest.mark.parametrize("reply", [
    "They ask…</think>", "<think>They ask…</think>\n", "<think>",
    "<|channel|>analysis<|message|>They ask…<|end|>", "<|channel|>final", "<|channel|>analysis"])
def test_thoughts_without_an_answer(reply):
    with pytest.raises(LLMError, match="while the model is thinking"): parse_answer(reply)


@pytest.mark.parametrize("answer", [
    "The tag <analysis> ends with </analysis>.",
    "It ends with </reasoning>.",
    "My analysis: it opens at nine.",
    "analysis is hard.",
    "Analysis Paralysis is a game.",
    "First <think> twice.",
    "Write [THINK] before it.",
    "Before I answer: here is my thought process: I ask.",
    "Here is my response: at nine.",
    "Reasoning: none.",
    "<answer>At nine.</answer>", # without thoughts it may be what the user asked for
    "<b>thought</b>",
])
def test_what_only_looks_like_thoughts_stays(answer):
    assert parse_answer(answer) == answer


def test_each_mark_is_tried():
    "Each row of the table reads some reply above"
    for marks in THOUGHT_MARKS:
        pattern = re.compile(f"(?:{marks.begin}).*(?:{marks.end})", re.I | re.S)
        assert any(pattern.search(reply) for reply in THOUGHTS.values()), marks


@pytest.mark.parametrize("reply", ["", " \n", "```\n```", "<|im_end|>", "<|im_start|>assistant\n<|im_end|>"])
def test_an_empty_reply(reply):
    with pytest.raises(LLMError, match="the reply is empty"): parse_answer(reply)


def test_a_long_reply_takes_no_time():
    assert len(parse_answer("Ten minutes. "*20_000)) == 260_000 - 1
    assert parse_answer("<think>" + "Hm. "*50_000 + "</think>Ten.") == "Ten."
