r"""Words by which people try to give orders to somebody else's agent, and how to tell their use from their mention.

Here belong the phrases of prompt injections in English, German, French and Spanish, what evens a text out before they are
looked for, and ``instructed``, which decides over payloads. Which payloads are looked at is ``traces.security``'s.

The vocabulary is written as words between spaces; ``_`` stands for a space inside one, and what else a regular expression
of RE2 can say is allowed. It is matched against text that is evened out: small letters without accents, one space between
words, no invisible characters, Latin letters for those that look like them; and once more with letters for digits.
"""

from __future__ import annotations

import base64
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc


def _words(written: str) -> list[str]:
    return [word.replace("_", " ") for word in written.split()]


def _one_of(written: str) -> str:
    return f"(?:{'|'.join(_words(written))})"


def _some(written: str) -> str:
    """Any number of these words, each with the space after it."""
    return f"(?:{_one_of(written)} )*"


_EVERYWHERE = frozenset({"system", "message", "developer", "content", "mensaje"})


@dataclass(frozen=True, slots=True)
class _Phrases:
    """A pattern in which {key} stands for words that begin with plain letters; each phrase has one of them."""

    key: str
    pattern: str

    @property
    def whole(self) -> str:
        return r"\b(?:" + self.pattern.replace("{key}", _one_of(self.key)) + ")"

    def hints(self) -> Iterator[str]:
        """The plain letters that the key words begin with; of several words the longest, unless every payload has it."""
        for word in _words(self.key):
            letters, rest = re.match(r"([a-z'\- ]+)(.?)", word).groups()  # type: ignore[union-attr]
            plain = (letters[:-1] if rest in ("?", "*") else letters).strip()
            longest = max(re.split("[ '-]", plain), key=len)
            yield plain if len(longest) < 6 or longest in _EVERYWHERE else longest


def _overrides(verbs: str, fillers: str, nouns: str) -> _Phrases:
    """An order not to heed what was said before: a verb, its usual company, what it is about."""
    return _Phrases(verbs, rf"{{key}} {_one_of(fillers)} {_some(fillers)}{_one_of(nouns)}(?:\W|$)")


def _leaks(verbs: str, fillers: str, told: str, bare: str) -> tuple[_Phrases, _Phrases]:
    """Orders to give away what the agent was told: by a name that only that has, or by one that must be all that is asked for."""
    before = rf"{_one_of(verbs)}[ -]{_some(fillers)}"
    return _Phrases(told, before + r"{key}(?:\W|$)"), _Phrases(
        bare, before + r"{key}(?: verbatim| word for word| in full)?(?:[.?!\"';:)]|$)"
    )


_RULES_EN = "restrictions? rules filters? limits limitations guidelines censorship safeguards constraints"
_ENGLISH = (
    _overrides(
        "ignore ignoring disregard forget override overriding bypass circumvent discard neglect dismiss abandon not_follow don't_follow"
        " dont_follow stop_following not_obey don't_obey stop_obeying no_longer_follow not_comply_with",
        "to all any every everything of in the these those this your you and or above previous previously prior earlier preceding former"
        " initial original existing current past old system safety security given provided stated developer developer's content ethical"
        " built-in instructions rules other",
        "instructions? directions directives? prompts? rules guidelines? guardrails? programming training orders constraints restrictions"
        " policy policies safeguards filters",
    ),
    _Phrases(
        "ignore disregard forget",
        rf"{{key}} {_one_of('everything anything all whatever what')}"
        rf" {_some('of it that is was has been came comes you have were had they the developers? makers? creators?')}"
        + _one_of("above before_this told taught instructed know learned written_above said_above so_far"),
    ),
    *_leaks(
        "reveal show print repeat output display tell give leak dump share disclose recite copy paste send write return list expose state"
        " translate summari[sz]e encode quote provide describe read spell divulge what's what_is what_are what_was what_were see",
        "me us it out back down to in into all of the a an any exact exactly full complete entire whole verbatim text content contents copy"
        " version words word for everything that is was and english german french spanish base64 rot13 json please now here again first",
        "your_system_prompt your_system_instructions your_system_message your_initial_prompt your_initial_instructions your_original_prompt"
        " your_original_instructions your_hidden_prompt your_hidden_instructions your_secret_instructions your_secret_prompt"
        " your_internal_instructions your_internal_guidelines your_internal_rules your_developer_message your_developer_instructions"
        " your_confidential_instructions your_full_prompt your_full_instructions your_exact_instructions your_exact_prompt"
        " your_entire_prompt"
        " your_complete_instructions your_underlying_instructions your_core_instructions your_pre-prompt your_programming"
        " hidden_prompt hidden_instructions hidden_system_prompt secret_prompt secret_instructions confidential_instructions"
        " developer_message"
        " developer_prompt initial_system_prompt",
        "your_prompt your_instructions system_prompt system_message system_instructions prompt_you_were_given instructions_you_were_given"
        " instructions_given_to_you instructions_you_received",
    ),
    _Phrases(
        "above before_this before_my preceding",
        r"(?:repeat|print|output|copy|write out|echo) (?:everything|all|the text|the words|the content) "
        + _some("of the text words content that is was comes came")
        + "{key}",
    ),
    _Phrases("were_you_told were_you_instructed", r"what {key} [\w',\- ]*(?:before|start|beginning|initially|first|conversation)"),
    _Phrases(
        "unrestricted uncensored unfiltered jailbroken amoral dan without_any without_ethical without_moral without_safety"
        " without_restrictions"
        " without_rules without_limits without_limitations without_filters with_no no_restrictions no_rules no_filters no_ethical no_moral"
        " no_content no_safety no_limits no_limitations free_of free_from",
        r"(?:you are|you will be|act|behave|respond|answer|reply|pretend|roleplay|role-play|simulate|speak|imagine|you have|you now have)"
        rf" (?:[\w'\-]+,? )*?{{key}}(?:$|[.,!:;)]|"
        rf" (?:{_some('any all more ethical moral safety content such usual other')}{_one_of(_RULES_EN)}"
        r"|ai|assistant|model|bot|chatbot|version)(?:\W|$)|(?: and|[.,]) (?:can|do|will)\b)",
    ),
    _Phrases(
        "longer_bound not_bound longer_restricted not_restricted longer_limited longer_constrained not_constrained longer_subject",
        rf"you are (?:no )?{{key}} (?:by|to)"
        rf" {_some('any all your the ethical moral safety content usual openai s')}{_one_of(_RULES_EN)}(?:\W|$)",
    ),
    _Phrases(
        "developer_mode dan_mode god_mode jailbreak_mode debug_mode unrestricted_mode unfiltered_mode evil_mode sudo_mode",
        rf"(?:{{key}} {_some('is now has been')}(?:enabled|activated|on|engaged|unlocked)"
        rf"|(?:enter|enable|activate|switch to|switch into|engage|turn on) {_some('the your a full')}{{key}})(?:\W|$)",
    ),
    _Phrases("do_anything_now", "{key}"),
    _Phrases(
        "new_instruction updated_instruction revised_instruction real_instruction actual_instruction true_instruction new_system"
        " updated_system new_prompt updated_prompt new_directive",
        r"{key}s?(?: prompt| instructions?)?(?: for (?:the )?(?:ai|assistant|model|you))? ?: ?"
        + _one_of("you ignore from_now reveal send instead output act respond_only forward"),
    ),
    _Phrases(
        "your_new your_real your_actual your_true your_only",
        "{key} (?:task|instructions?|goal|objective|purpose|mission|role|rules|job) (?:is|are)(?: now)?(?: to |:)",
    ),
    _Phrases(
        "ai llm language_model large_language_model chatbot gpt copilot assistant",
        r"(?:if you are|attention,?|note to|message to|message for|instructions? to|instructions? for|dear|hey|important:?)"
        rf" {_some('all any the an a')}{{key}}s?(?: (?:models?|assistants?|agents?|systems?|bots?|reading|processing|reviewing"
        rf"|summari[sz]ing"
        r"|this|page|document|email|the|text))*[ ,:.!\-]+(?:[\w']+,? ){0,4}"
        + _one_of("must ignore send forward include recommend rate approve say print don't do_not add call execute output"),
    ),
    _Phrases(
        "conversation chat_history api_key password credentials system_prompt secrets private_data access_token user_data personal_data",
        r"(?:send|forward|post|upload|email|transmit|exfiltrate|append|leak|copy) (?:[\w']+ ){0,4}{key}s?(?: \w+)* (?:to|via|at) "
        r"(?:the )?(?:url |address )?(?:https?:|www\.|[^ ]+@[^ ]+\.)",
    ),
    _Phrases(
        "the_user",
        r"(?:do not|don't|never) (?:tell|inform|alert|notify|let) {key}(?: know)?(?: about| that| of)? "
        r"(?:this|these|it|you are|you have|you did|you were|what you|the (?:above|email|instruction|request|change|transfer))(?:\W|$)",
    ),
)
_RULES_DE = r"regeln einschrankung\w* beschrankung\w* filter zensur grenzen"
_GERMAN = (
    _overrides(
        r"ignorier\w* vergiss vergessen_sie missacht\w* ubergeh\w* umgeh\w* verwirf uberschreib\w* nicht_mehr_an",
        "sie bitte ab jetzt sofort nun alle aller alles samtliche[rns]? deine[rn]? ihre[rn]? die den das diese jegliche bisherige[rn]?"
        " vorherige[rn]? vorige[rn]? obige[rn]? fruhere[rn]? vorangegangene[rn]? vorangehende[rn]? vorstehende[rn]? ursprungliche[rn]?"
        " gegebene[rn]? interne[rn]? geltende[rn]? und zuvor andere[rn]?",
        r"anweisung\w* instruktion\w* befehle? regeln vorgaben richtlinien (?:system-?)?prompts? einschrankung\w* beschrankung\w*",
    ),
    _Phrases(r"vergiss vergessen_sie ignorier\w*", "{key}(?: sie)? alles,? (?:was|davor|obige|bisherige|vorherige)"),
    *_leaks(
        r"zeig\w* verrat\w* nenn\w* gib geben wiederhol\w* druck\w* offenbar\w* schreib\w* sag\w* was_ist was_sind was_steht_in wie_lautet"
        r" wie_lauten kopier\w*",
        r"sie mir uns bitte den das die dein deine[nrm]? ihr ihre[nrm]? wortlich wortwortlich genau genaue[nr]? vollstandig"
        r" vollstandige[nr]? ganze[nr]?"
        r" komplette[nr]? gesamte[nr]? text von aus alle",
        r"system-?prompt\w* systemanweisung\w* systemnachricht\w* systeminstruktion\w* ursprunglich\w*_(?:anweisung\w*|instruktion\w*"
        r"|prompts?|vorgaben)"
        r" intern\w*_(?:anweisung\w*|instruktion\w*|regeln|vorgaben) geheim\w*_(?:anweisung\w*|instruktion\w*|prompts?)"
        r" versteckt\w*_(?:anweisung\w*|instruktion\w*|prompts?) verborgen\w*_(?:anweisung\w*|instruktion\w*|prompts?)",
        "deine_anweisungen deine_instruktionen deinen_prompt ihre_anweisungen ihren_prompt",
    ),
    _Phrases(
        r"dan uneingeschrankt\w* unzensiert\w* ungefiltert\w* keine ohne",
        r"(?:du bist|sie sind|du hast|verhalte dich|antworte|handle|agiere|spiele?|tu so),?(?: [\w'\-]+,?)*? {key}(?:$|[.,!:]"
        rf"| (?:{_some('jegliche jede irgendwelche weitere mehr ethischen moralischen')}{_one_of(_RULES_DE)}|ki|assistent\w*|modell"
        rf"|version)(?:\W|$))",
    ),
    _Phrases(
        "entwicklermodus entwickler-modus dan-modus gott-modus gottmodus",
        r"(?:aktivier\w*|wechsle\w* in|starte) (?:\w+ )?{key}|{key} (?:ist )?(?:jetzt )?(?:aktiv|an|eingeschaltet)",
    ),
)
_RULES_FR = r"restriction\w* filtre\w* limite\w* regle\w* censure"
_FRENCH = (
    _overrides(
        r"ignore[rsz]? oubli\w+ neglige[rz]? contourne[rz]? outrepasse[rz]? tiens_pas_compte tiens_plus_compte tenez_pas_compte"
        r" tenez_plus_compte"
        " fais_abstraction faites_abstraction suis_plus suivez_plus respecte_plus respectez_plus passe_outre passez_outre",
        "de des a toutes? tous les l'ensemble tes vos ces precedentes? anciennes? autres et la le donnees? recues",
        "instructions? consignes? directives? regles ordres restrictions prompts? garde-fous",
    ),
    _Phrases("oublie[rz]? ignore[rz]?", "{key} (?:tout )?ce (?:qui (?:precede|a ete dit|t'a ete)|que (?:tu|vous|l'on|on))"),
    *_leaks(
        r"revel\w+ montr\w+ affich\w+ donn\w+ repet\w+ imprim\w+ ecri\w+ divulgu\w+ recopi\w+ dis dites communiqu\w+ quel\w*_est"
        r" quel\w*_sont quel\w*_etai\w+",
        "moi nous le la les ton votre tes vos mot pour a l'identique integralement exactement texte contenu du de toutes?",
        "prompt_systeme prompt_initial prompt_cache prompt_secret prompt_complet prompt_interne message_systeme instructions_systeme"
        " instructions_initiales instructions_internes instructions_secretes instructions_cachees instructions_d'origine consignes_systeme"
        " consignes_initiales consignes_internes consignes_secretes consignes_cachees",
        "tes_instructions tes_consignes ton_prompt vos_instructions vos_consignes votre_prompt",
    ),
    _Phrases(
        r"dan non_censure\w* debride\w* sans",
        r"(?:tu es|vous etes|agis|agissez|comporte|reponds|repondez|fais semblant|joue)(?:[ -][\w'\-]+,?)*? {key}"
        rf"(?:$|[.,!:]| {_some('aucune? la moindre')}{_one_of(_RULES_FR)}(?:\W|$))",
    ),
    _Phrases("mode_developpeur mode_dan mode_dieu mode_debride", r"(?:active\w*|passe\w* en) (?:le )?{key}|{key} (?:est )?active"),
)
_RULES_ES = r"restriccion\w* filtro\w* limite\w* censura reglas limitacion\w*"
_SPANISH = (
    _overrides(
        "ignor[ae]n? ignorar ignorad olvid[ae]n? olvidar olvidate caso_omiso descart[ae] desestim[ae] omit[ae] por_alto"
        " no_sigas no_siga no_obedezcas no_respetes no_hagas_caso no_tengas_en_cuenta no_tenga_en_cuenta",
        "de a todas? todos las? los? tus sus esas estas cualquier anteriores previas otras y el del",
        r"instruccion(?:es)? indicacion(?:es)? directric\w* directivas reglas ordenes normas restricciones prompts? limitaciones",
    ),
    _Phrases("olvid[ae] ignor[ae]", "{key} todo lo (?:anterior|que (?:te|se|has)|dicho|de arriba|previo)"),
    *_leaks(
        r"revel\w+ muestr\w+ dime digame dame deme imprim\w+ repit\w+ escrib\w+ ensena\w* comparte copia cual_es cual_fue cual_era"
        r" cuales_son",
        "me nos por favor el la las los tu tus su sus palabra exactamente exactas? completas? completo todas? texto contenido de del",
        "prompt_del_sistema prompt_de_sistema prompt_inicial prompt_oculto prompt_completo prompt_interno mensaje_del_sistema"
        " mensaje_de_sistema"
        " instrucciones_del_sistema instrucciones_iniciales instrucciones_internas instrucciones_ocultas instrucciones_secretas"
        " instrucciones_originales",
        "tus_instrucciones sus_instrucciones tu_prompt su_prompt",
    ),
    _Phrases(
        "dan sin",
        r"(?:ahora eres|eres ahora|a partir de ahora|actua|compor\w+|responde|finge|haz como)(?: [\w'\-]+,?)*? {key}"
        rf"(?:$|[.,!:]| {_some('ningun ninguna tipo de')}{_one_of(_RULES_ES)}(?:\W|$))",
    ),
    _Phrases("modo_desarrollador modo_dan modo_dios", r"(?:activa\w*|entra\w* en) (?:el )?{key}|{key} (?:esta )?activado"),
)
_HIDDEN = (
    _Phrases(
        "display font-size visibility opacity color",
        r"{key} ?: ?(?:none|0(?:px|pt|em)?|hidden|white|#fff(?:fff)?)\b[^<>]*>[^<]*"
        r"\b(?:assistant|ai|llm|language model|instructions?|system prompt|you must|ignore)\b[^<]*"
        r"\b(?:must|should|ignore|send|reveal|include|say|respond|recommend|do not|approve|forward|output)\b",
    ),
)
_ALL = (*_ENGLISH, *_GERMAN, *_FRENCH, *_SPANISH, *_HIDDEN)
# Marks of chat templates that feign another speaker. A prompt that begins with one is written that way by its maker.
_MARK = r"(?:<\|(?:im_start|im_end|system|assistant|user|endoftext|eot_id|start_header_id)\|>|<<sys>>|\[/?inst\]|</?system_?prompt>)"
_SPEAKER = rf"{_MARK} ?(?:{_MARK}|system|you (?:are|must|will)|ignore|assistant)"
_PHRASES = "|".join(phrases.whole for phrases in _ALL)
PATTERN = f"{_PHRASES}|{_SPEAKER}"
_MARKS = re.compile(_MARK)
_TEMPLATE = re.compile(rf"(?:<s> ?|<\|begin_of_text\|> ?)?{_MARK}")

_LETTERS = {"a": "[a4@]", "e": "[e3]", "i": "[i1!]", "o": "[o0]", "s": "[s5$]", "t": "[t7]", " ": r"(?:[\s*`]|\\[nrt])+"}  # or digits
_NOT_PLAIN = (
    r"[\x{AD}\x{C0}-\x{24F}\x{300}-\x{36F}\x{200B}-\x{200F}\x{2060}-\x{2064}\x{FEFF}\x{FF21}-\x{FF5A}"
    r"\x{1D400}-\x{1D7FF}\x{E0020}-\x{E007E}]"
    r"|[A-Za-z][\x{370}-\x{4FF}]|[\x{370}-\x{4FF}][A-Za-z]|\\u[0-9a-fA-F]{4}"
)


def _hint() -> str:
    stems = sorted({hint for phrases in _ALL for hint in phrases.hints()})
    shortest = [stem for stem in stems if not any(other in stem and len(other) > 4 for other in stems if other != stem)]
    spelled = ("".join(_LETTERS.get(letter, letter) for letter in stem) + (r"\b" if len(stem) < 5 else "") for stem in shortest)
    return rf"(?i:{'|'.join(spelled)}|{_MARK})|{_NOT_PLAIN}"


# RE2; where this is not in a text, none of the phrases is in it either. Other letters than plain ones have to be evened out first.
HINT = _hint()


def _encodings(phrase: str) -> Iterator[str]:
    """What base64 makes of a phrase wherever it stands: its three alignments, without the characters that depend on the neighbours."""
    for shift in range(3):
        raw = b"\0" * shift + phrase.encode()
        yield base64.b64encode(raw[: len(raw) // 3 * 3]).decode()[shift and shift + 1 :]


_ENCODED_PHRASES = (
    "revious instructions", "REVIOUS INSTRUCTIONS", "gnore all prior", "gnore all previous", "gnore the above", "isregard all",
    "isregard your", "our system prompt",
    "vorherigen Anweisungen", "bisherigen Anweisungen", "instructions précédentes", "consignes précédentes",
    "instrucciones anteriores", "instrucciones previas",
)  # fmt: skip
ENCODED = "|".join(sorted({re.escape(code) for phrase in _ENCODED_PHRASES for code in _encodings(phrase)}))

# Evening out ----------------------------------------------------------------------------------------------------

# Invisible characters and, after decomposition, accents.
_REMOVED = re.compile("[\u00ad\u034f\u061c\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufe00-\ufe0f\u0300-\u036f]+")
_TAGS = re.compile("[\U000e0020-\U000e007e]+")  # an invisible copy of ASCII
_OTHER_SCRIPTS = re.compile("[\u0131\u0370-\u052f]")
_ALIKE = str.maketrans(
    "\u0430\u0432\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u0501\u04bb\u03bd\u03ba\u03c4\u03b9\u03b1\u03bf\u03c1\u03c5\u0131",
    "abeopcyxijsdhvktiaopui",
)
_DIGITS = str.maketrans("013457@$!", "oieastasi")
_ESCAPES = re.compile(r"(?:\\u[0-9a-fA-F]{4})+")
_BREAKS = re.compile(r"\\[nrt]|[*`]+")
_DIGIT_IN_WORD = r"[a-z][013457@$!]+[a-z]|\b[0134!][a-z]{2}"


def _evened(text: str) -> str:
    """A text as the vocabulary expects it."""
    if "\\u" in text:
        text = _ESCAPES.sub(_unescaped, text)
    if not text.isascii():
        text = _TAGS.sub(lambda found: "".join(chr(ord(tag) - 0xE0000) for tag in found[0]), text)
        text = _REMOVED.sub("", unicodedata.normalize("NFKD", text).lower()).replace("\u2019", "'")
        if _OTHER_SCRIPTS.search(text):
            text = text.translate(_ALIKE)
    if "\\" in text or "*" in text or "`" in text:
        text = _BREAKS.sub(" ", text)
    return " ".join(text.lower().split())


def _unescaped(found: re.Match[str]) -> str:
    """Characters that JSON spells as escapes; halves of a pair without the other one are left out."""
    codes = bytes.fromhex(found[0].replace("\\u", ""))
    return codes.decode("utf-16-be", "ignore")


# Whose words ----------------------------------------------------------------------------------------------------

_OURS = frozenset({"system", "developer", "assistant", "ai", "model", "systemmessage", "aimessage", "aimessagechunk"})
_OF_MAKERS = frozenset(
    ["system", "system_prompt", "system_instruction", "system_instructions", "developer", "instructions", "tools", "functions", "template"]
)
_DEEPEST = 40


def _parts_of_others(text: str) -> Iterator[str]:
    """The parts of a payload that the agent's makers did not write: all of it, where it is not JSON."""
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError:
        document = text
    yield from _strings(document, 0)


def _strings(node: Any, depth: int) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif depth > _DEEPEST:
        yield orjson.dumps(node).decode()
    elif isinstance(node, list):
        is_own_message = len(node) == 2 and isinstance(node[0], str) and node[0].lower() in _OURS  # a pair of role and text
        for value in () if is_own_message else node:
            yield from _strings(value, depth + 1)
    elif isinstance(node, dict) and not _is_own_message(node):
        for name, value in node.items():
            if name == "messages" and isinstance(value, str) and value[:1] in ("[", "{"):  # as some clients send them
                yield from _parts_of_others(value)
            elif name not in _OF_MAKERS:
                yield from _strings(value, depth + 1)


def _is_own_message(message: Mapping[str, Any]) -> bool:
    """Whether a message is the system's or the assistant's."""
    kind = message.get("id")
    role = message.get("role") or message.get("message.role") or (kind[-1] if isinstance(kind, list) and kind else message.get("type"))
    return isinstance(role, str) and role.lower() in _OURS


# Use or mention -------------------------------------------------------------------------------------------------

# Words around a quoted phrase, or before any, that say that it is spoken about.
_ABOUT = re.compile(
    r"injection|jailbreak|attack|malicious|adversarial|exploit|vulnerab|owasp|red.team|security|guardrail|such as|for example|e\.g\.|phrase"
    r"|detect|classif|dataset|means|what does|translate|beispiel|angriff|exemple|attaque|ejemplo|ataque|inyeccion|ubersetz|traduc|tradui"
)
_OPENLY_ABOUT = re.compile(r"prompt.injection|jailbreak (?:attempt|attack|prompt)|injection (?:attack|attempt)|inyeccion de|injection de")
_QUOTED = re.compile(r"[\"'\u201c\u201d\u201e\u201a\u2018\u00ab\u00bb(]\s*(?:\w+[ ,:]+){0,3}$")
# Somebody tells what was done, and orders nothing.
_TOLD = re.compile(
    r"(?:(?<!can )(?<!may )(?<!could )\b(?:i|we|they|users?|people|ai|as|a|avons|avez|ont|avait|avais|habe|haben|hat|he|ha|hemos|han)"
    r"|i've|j'ai) $"
)
_AROUND, _SHORTEST = 240, 9  # characters


def instructed(payloads: Sequence[str]) -> list[int]:
    """Positions of the payloads in which somebody other than the agent's makers uses such a phrase, rather than speaks about it."""
    owners: list[int] = []
    texts: list[str] = []
    for position, payload in enumerate(payloads):
        parts = [_evened(part) for part in _parts_of_others(payload) if len(part) >= _SHORTEST]
        owners += [position] * len(parts)
        texts += [_MARKS.sub(" ", part) if _TEMPLATE.match(part) else part for part in parts]
    mixed = where(pa.array(texts, pa.string()), _DIGIT_IN_WORD)
    owners += [owners[at] for at in mixed]
    texts += [texts[at].translate(_DIGITS) for at in mixed]
    return sorted({owners[at] for at in where_real(texts, PATTERN, _is_order, most=20, beyond=True)})  # who quotes more does not explain


def _is_order(before: str, found: str) -> int | None:
    """Whether a phrase is used: None; else how much of the text to pass over."""
    before = before[-_AROUND:]
    if _OPENLY_ABOUT.search(before) or _TOLD.search(before):
        return 1
    return 1 if _QUOTED.search(before) and _ABOUT.search(before + found[:_AROUND]) else None


# Searching with RE2 ---------------------------------------------------------------------------------------------

_BEFORE, _AFTER = 1_000, 20_000  # bytes around a match that are looked at
_MOST_BYTES = 4_000_000  # that are searched again and again in one text


def where(texts: pa.Array, pattern: str) -> np.ndarray:
    """Positions of the texts in which RE2 finds the pattern."""
    if not len(texts):
        return np.empty(0, np.int64)
    return np.flatnonzero(pc.fill_null(pc.match_substring_regex(texts, pattern), fill_value=False).to_numpy(zero_copy_only=False))


def where_real(
    texts: Sequence[str], pattern: str, looks_real: Callable[[str, str], int | None], *, most: int, beyond: bool = False
) -> list[int]:
    """Positions of the texts with a match that is real: None from ``looks_real``, given what stands before it and the text from it
    on; else it says how many bytes to pass over. A text with ``most`` that are not real, or a long one with some, counts as
    ``beyond`` says.

    A round looks for the next match in all texts that are undecided: compiling a pattern costs as much as a thousand texts.
    """
    real: list[int] = []
    given_up: list[int] = []
    waiting = {position: (text.encode("utf-8", "ignore"), 0) for position, text in enumerate(texts)}
    for number in range(1, most + 1):
        rests = pa.array([data[start:] for data, start in waiting.values()], pa.binary())
        found = pc.find_substring_regex(rests, pattern).to_pylist() if waiting else ()
        for position, further in zip(tuple(waiting), found, strict=True):
            data, start = waiting.pop(position)
            if further < 0:
                continue
            at = start + further
            before, after = data[max(0, at - _BEFORE) : at], data[at : at + _AFTER]
            passed = looks_real(before.decode("utf-8", "ignore"), after.decode("utf-8", "ignore"))
            if passed is None:
                real.append(position)
            elif number < most and number * len(data) < _MOST_BYTES:
                waiting[position] = data, at + max(1, passed)
            else:
                given_up.append(position)
    return sorted(real + given_up if beyond else real)
