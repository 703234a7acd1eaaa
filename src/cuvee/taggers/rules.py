"""Tags `code`, `math` or `other` by what stands in the whole conversation; no model, no network.

No paper: the InsTag route (arXiv 2310.05492, section 4.2) asks a model for the tags and matches them with
``code|math``; this is the cheap first look. An example has the tag of every rule list below that hits it, and
``other`` when none does:

    tags(example) = {t in (code, math) : some rule of t is found in the joined contents} or {other}

`code`: a fenced block that names a language and looks like code; statements, declarations, markup, queries and shell
commands of common languages, fenced or not; in the prompts, a request to write, fix or run a program, function,
query or regular expression, "in Python" and its like, a language beside "code", "script", "loop" and its like.

`math`: LaTeX formulas, of physics as well; ``#### 42`` and ``<<48/2=24>>`` of GSM8K; worked sums (``3 * 4 = 12``);
equations in one letter (``2x + 3 = 9``); in the prompts, a request to solve, simplify or prove, to calculate an
area, a mean, a root and the like of given numbers, and word problems: a short prompt that ends with "how many",
"how much" and the like after at least two numbers that are no years.

Precision is put before recall. Talk about technology without a program is `other`, and so are prices, dates and
figures in a text that is asked about. An exercise in arithmetic that is to be solved by a program is both. Requests
are looked for in English only; code, formulas and worked sums in any language.

    user: "Write a Python function that adds two numbers." assistant: "def add(a, b):\\n    return a + b"  -> code
    user: "Ann has 3 apples and buys 2 more. How many has she?" assistant: "5"                            -> math
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from cuvee.protocols import Params as Base
from cuvee.values import Example

VERSION = 1

CODE, MATH, OTHER = "code", "math", "other"


class Params(Base):
    """None: the rules are fixed, and `VERSION` names them."""


def tags(example: Example, params: Params) -> tuple[str, ...]:
    """Return `code`, `math`, both, or `other`; the same for equal conversations."""
    return tuple(name for name in (CODE, MATH) if any(hits(example, name))) or (OTHER,)


def hits(example: Example, tag: str) -> Iterator[str]:
    """Yield what in the conversation gives it `code` or `math`, one text a rule, to see why."""
    whole = "\n".join(message.content for message in example.messages)
    prompts = [message.content for message in example.messages if message.role == "user"]
    in_all, in_prompts = _RULES[tag]
    yield from _found(in_all, whole)
    yield from _found(in_prompts, "\n".join(prompts))
    if tag == MATH:
        yield from filter(_is_word_problem, prompts)


Rule = tuple[tuple[str, ...], re.Pattern[str]]
"""Signs of which one must be in the text (lower case; none: always), and the expression that then decides."""


def _rule(signs: str, *alternatives: str, flags: int = re.MULTILINE) -> Rule:
    return tuple(signs.split()), re.compile("|".join(alternatives), flags)


def _asked(signs: str, *alternatives: str) -> Rule:
    return _rule(signs, *alternatives, flags=re.MULTILINE | re.IGNORECASE)


def _found(rules: Sequence[Rule], text: str) -> Iterator[str]:
    # `in` is many times faster than an expression, and most texts have none of the signs.
    lower = text.lower()
    for signs, expression in rules:
        if (not signs or any(sign in lower for sign in signs)) and (match := expression.search(text)):
            yield match.group()


# ---------------------------------------------------------------------------------------------------- code

_FENCES = (
    r"py(?:thon)?3?|java|javascript|jsx?|tsx?|typescript|c|cpp|c\+\+|cs|csharp|c\#|go|rust|ruby|rb|perl|php|swift|kotlin|"
    r"scala|haskell|r|matlab|sql|html|xml|s?css|bash|sh|shell|zsh|powershell|vba?|jsonc?|ya?ml|toml|dockerfile|makefile|"
    r"lua|dart|solidity|verilog|vhdl|asm|graphql|diff|ini|nginx"
)
_IN_LANGUAGE = (
    r"python|java|javascript|typescript|c\+\+|c\#|golang|ruby|perl|php|kotlin|scala|haskell|matlab|sql|mysql|postgresql|"
    r"html5?|css3?|jquery|react|node\.?js|django|flask|numpy|pandas|pytorch|tensorflow|keras|bash|powershell|vba"
)
_LANGUAGE = (
    rf"(?:{_IN_LANGUAGE}|cpp|csharp|rust|swift|sqlite|angular|vue\.?js|shell|assembly|verilog|latex|regex|unix|linux)"
)
_THING = (
    r"(?:code|program|function|script|query|snippet|class|method|app|application|api|algorithm|loop|array|dictionary|"
    r"statement|command|library|module|package|component|expression|interpreter|compiler|syntax|error|exception)"
)
_MAKE = (
    r"\b(?:write|create|implement|define|design|develop|code|generate|complete|build|construct|formulate|compose|edit|fix|"
    r"debug|refactor|optimi[sz]e|rewrite|run|compile|execute) (?:me |us )?(?:(?:a|an|the|this|that|some|following) )*"
)
_END = r"[ \t]*\r?$"

_SYNTAX = (
    _asked(
        "```",
        # Chat sites guess the language, also of poems and tables: what is inside must look like code.
        rf"^[ \t>]*```[ \t]*(?:{_FENCES}){_END}\n(?:(?!```)[\s\S]){{0,600}}?"
        r"(?:[{};]|\w\(|=[ ]?[\"'\w\[]|[ ]--\w|\": |\$\w)",
    ),
    _rule("def  class ", rf"^[ \t]*(?:async )?def \w+ ?\(.*\).*:|^[ \t]*class \w+(?: ?\([\w., ]*\))?:{_END}"),
    _rule(
        "import ",
        rf"^[ \t]*(?:import [\w.]+(?: as \w+)?;?|from [\w.]+ import [\w*, ()]+|import .+ from ['\"].+['\"];?){_END}",
    ),
    _rule("#include using", r"^[ \t]*#include ?[<\"]|\busing namespace \w+;|^using System"),
    _rule(
        "public private protected void",
        r"\b(?:public|private|protected) (?:static |final |async |override )*[\w<>\[\]]+ \w+ ?[({;=]",
        r"\b(?:public|private) (?:class|interface|enum) \w+",
        r"\bvoid \w+ ?\([\w ,*&<>\[\]]*\)",
    ),
    _rule("main function", r"\bint main ?\(", r"\bfunction ?\w* ?\([\w ,.={}$&]*\) ?\{"),
    _rule("=>", r"(?:\([\w ,]*\)|\b\w+) ?=> ?[\{(\w].*[;)}]"),
    _rule("const let var", rf"^[ \t]*(?:const|let|var) [\w{{}}, \[\]]+ ?= ?.+(?:;|[({{\[]){_END}"),
    _rule(
        "console. system.out print printf( echo cout document.",
        r"\bconsole\.(?:log|error)\(|\bSystem\.out\.print|\bConsole\.(?:Write|Read)|\bprintf ?\(|\bcout ?<<",
        r"(?<![\w.])print ?\([\"'\w\[{].*\)|\becho [\"'$].*;|\bdocument\.(?:getElement|querySelector|write)",
    ),
    _rule(
        "select insert update delete create alter drop",
        r"\bSELECT\s+[\w*\"`(.,\s)\[\]@]{1,400}?\sFROM\s+[\w\"`.\[(@]+|\bINSERT INTO \w+|\bDELETE FROM \w+",
        r"\bUPDATE [\w.]+\s+SET \w+ ?=|\b(?:CREATE|ALTER|DROP) (?:TABLE|DATABASE|VIEW|INDEX|PROCEDURE) ",
        r"^select [\w*, .()]+ from \w+(?: (?:where|order|group|limit|join)\b|;)",
    ),
    _rule(
        "</ <! <?php <img <input <link <meta",
        r"</(?:html|head|body|div|span|p|a|ul|ol|li|table|tr|td|th|h[1-6]|script|style|form|button|title|select|label|nav)>",
        r"<!DOCTYPE html|<\?php|<(?:img|input|link|meta) [^>]*=[^>]*>",
    ),
    _rule("for if while switch", rf"^[ \t]*(?:\}} ?else )?(?:for|while|if|switch|foreach) ?\([^\n]*\) ?\{{{_END}"),
    _rule(
        "for  while  if  elif  else: try: except",
        rf"^[ \t]*(?:for \w+(?:, ?\w+)* in .+|while [^\n.?!]*[<>=\w\])]|elif .+|else|try):{_END}",
        rf"^[ \t]*except(?: \w+)?(?: as \w+)?:{_END}",
        rf"^[ \t]*if [^\n?!]*(?:==|!=|[<>]=?| in | not )[^\n?!]*:{_END}",
    ),
    _rule("return", rf"^[ \t]*return\b[^\n.?!]*[;\])]{_END}|^[ \t]+return [\w.\[\]() +*/<>=-]+$"),
    _rule("= new ", r"\b[A-Z]\w*(?:<[\w<>, ]*>)? \w+ ?= ?new \w+"),
    _rule(
        ";",
        rf"^[ \t]*[\w.]+\([^()\n]*\);{_END}",
        r"^[ \t]*(?:int|float|double|char|bool|boolean|[Ss]tring|long|auto)\b[\[\]<>\w ]* \w+(?: ?= ?[^\n]+)?;",
        r"^[ \t]*[.#]?[\w-]+(?:[ ,.:#>\w-]*) ?\{\s*[\w-]+ ?: ?[^;{}\n]+;",
    ),
    _rule(
        "=",
        rf"^[ \t]*\w+ ?= ?(?:\[\]|\{{\}}|\[[\"'\d].*\]|\{{[\"']\w+[\"'] ?:.*|\w+(?:\.\w+)+\(.*\))[ \t]*;?{_END}",
        rf"^[ \t]*\w+ ?= ?(?:int|str|len|input|range|open|float|list|set|dict|sorted|max|min|sum)\(.*\){_END}",
    ),
    _rule(
        "sudo pip npm git docker apt-get chmod",
        r"^[ \t$>#]*(?:sudo (?:apt|yum|dnf|systemctl|chmod|rm|docker)|pip3? install [\w-]|npm (?:install|run|init)\b)",
        r"^[ \t$>#]*(?:git (?:clone|commit|push|pull|add|checkout|rebase|merge) |docker (?:run|build|compose) )",
        r"^[ \t$>#]*(?:apt-get install|chmod [+\d])",
    ),
    _rule(
        "#!/ traceback error: exception: >>>",
        r"^#!/(?:usr/)?bin/|^Traceback \(most recent call last\)|\b(?:[A-Z]\w+Error|\w+Exception): |^[ \t]*>>> \w",
    ),
)

_CODE_REQUESTS = (
    _asked("", rf"\b(?:in|using|with|into) (?:(?:a|an|the|plain|pure|vanilla) )?(?:{_IN_LANGUAGE})(?![\w-])"),
    _asked("", rf"(?<!\w){_LANGUAGE}['s]* {_THING}(?:s|es)?\b"),
    _asked(
        "functio",
        rf"{_MAKE}(?:[\w-]+ ){{0,3}}function "
        r"(?:that|to|which|for|called|named|in|with|takes|given|using|definition|signature)\b",
    ),
    _asked(
        "program script code",
        rf"{_MAKE}(?:(?:computer|simple|short|given|recursive|source|sample|above|below|existing) ){{0,2}}"
        r"(?:program (?:that|to|which|in)|pseudo-?code|script that|code (?:that|to|which|in|for|snippet|below))\b",
        r"\b(?:this|following|given|above|below|existing|my) (?:(?:piece|block|section) of )?(?:source )?"
        r"(?:code|program|code snippet)\b(?! of\b)",
    ),
    _asked(
        "query regex regular algorithm",
        rf"{_MAKE}(?:[\w-]+ ){{0,2}}"
        r"(?:query (?:to|that|which|for)|regex|regular expression|algorithm (?:to|that|for|which))\b",
    ),
    _asked(
        "linked binary data stack hash sort time object",
        r"\b(?:linked list|binary (?:search|tree)|hash (?:map|table)|data structure|time complexity|object-oriented)\b",
        r"\b(?:bubble|quick|merge|insertion|selection|heap) ?sort\b",
    ),
)

# ---------------------------------------------------------------------------------------------------- math

_NUMBER = r"\$?\d[\d,]*(?:\.\d+)?%?"
_SIGN = r"[-+*/×÷xX^−–·]"
_POWER = r"(?:\^\d|²|³)"

_WORKING = (
    _rule("#### >>", r"^#### ?-?\$?\d[\d,.]*%?\s*$", r"<<[\d.+*/()-]+=[\d.-]+>>"),
    _rule(
        "\\",
        r"\\(?:[dt]?frac|sqrt|sum|int|prod|lim|boxed|cdot|times|leq|geq|neq|alpha|beta|theta|lambda|sigma|infty|partial|"
        r"mathbb|mathcal|binom|pmod|equiv|overline|vec|log|sin|cos|tan)(?![a-z])",
        r"\\begin\{(?:equation|align|aligned|pmatrix|bmatrix|cases|array|matrix)\*?\}",
    ),
    _rule(
        "= ≈ equals",
        rf"(?<![\w.]){_NUMBER}\)? ?{_SIGN} ?\(?{_NUMBER}(?: ?{_SIGN} ?\(?{_NUMBER}\)?)*\)? ?(?:[A-Za-z]+ )?"
        rf"(?:=|≈|equals) ?-?{_NUMBER}",
    ),
    _rule(
        "= ^ ² ³",
        rf"(?<![\w.(\[=])(?:[a-zA-Z] ?= ?-?\d+\.?\d* ?[a-z]{_POWER}? ?[-+−] ?\d+|-?\d*[a-z](?:\^2|²) ?[-+−] ?\d*[a-z]?|"
        rf"-?\d*[a-z]{_POWER}? ?[-+−] ?(?:\d+[a-z]?|[a-z]) ?(?:[-+−] ?\d+ ?)?= ?-?\d+)(?![\w(\[;])",
    ),
    _rule("² ³ √ ∫ ∑ π", r"(?<![a-z])[abcnrxyz\d)][²³]|√ ?\(?\d|∫|∑|π ?r|\d ?π"),
)

_FIND = (
    r"\b(?:calculate|find|compute|determine|evaluate|what(?:'s| is| are| would be| will be)) (?:out )?(?:(?:the|an?) )?"
    r"(?:[\w-]+ ){0,2}"
)
_MATH_REQUESTS = (
    _asked(
        "solv",
        r"\bsolve (?:for [a-z]\b|-?\d*[a-z] ?[-+=^])",
        r"\bsolve (?:the|this|an?) (?:[\w-]+ )?(?:equation|inequality|system of|quadratic|math|linear|algebra)",
    ),
    _asked(
        "equation expression polynomial fraction decimal number function",
        r"\b(?:simplify|factor|factori[sz]e|expand|evaluate|differentiate|integrate|graph|calculate|balance|round|convert|"
        r"reduce|compute) (?:(?:the|this|following|algebraic|quadratic|linear|given|decimal|mixed|improper|binary|"
        r"polynomial|numerical|mathematical) )*(?:equation|expression|polynomial|fraction|decimal|number|function)s?\b",
    ),
    _asked(
        "calculat find what comput determin evaluat",
        rf"{_FIND}(?:area|perimeter|volume|circumference|hypotenuse|lcm|gcd|hcf|square root|cube root|remainder|slope|"
        r"determinant|standard deviation|factorial|(?:greatest|least|lowest) common \w+|prime factors?|radius|diameter|"
        r"value of [a-z]\b|logarithm)\b(?=[^.?!\n]{0,120}\d)",
        rf"{_FIND}(?:median|mean|average|mode|sum|product|quotient|derivative|integral|variance|probability|roots?|"
        r"percentage|interest|distance|speed|total (?:cost|price))\b(?=[^.?!\n]{0,120}?\d[^?!\n]{0,60}?[^\w.]\d)",
    ),
    _asked(
        "derivative integral",
        r"\b(?:derivative|integral) of\b [^.?!\n]{0,40}(?:[a-z]\^|\d[a-z]\b|\bx\b|sin|cos|log|ln|e\^)",
    ),
    _asked(
        "prove proof",
        r"\b(?:prove|proof) (?:that|of|the) [^.?!\n]{0,80}(?:[=<>≤≥^]|\b(?:theorem|prime|irrational|integers?|"
        r"continuous|converges?|infinite|bounded|group|ring|field|matrix|convex)\b)",
    ),
    _asked(
        "what calculat comput evaluat work add multipl subtract divide",
        rf"\bwhat(?:'s| is| does| are) -?\d[\d,.]* ?(?:{_SIGN}|%|plus|minus|times|divided by|"
        r"multiplied by|to the power|squared)",
        rf"\b(?:calculate|compute|evaluate|work out|add|multiply|subtract|divide)(?: the following)?:? ?"
        rf"\(?-?\d[\d,.]*\)? ?(?:{_SIGN}|and|by|from|to|with) ?\(?\d",
    ),
    _asked("%", r"\bwhat(?:'s| is) \d[\d.]*% of\b|\b\d[\d.]*% of \$?\d+"),
    _asked(
        "quadratic pythagor algebra differential eigen triangle isosceles trigonometric sequence series progression",
        r"\b(?:quadratic (?:equation|formula|function)|pythagorean theorem|linear algebra|differential equation|"
        r"eigenv(?:alue|ector)s?|right(?:-angled)? triangle|isosceles|trigonometric|"
        r"(?:arithmetic|geometric) (?:sequence|series|progression))\b",
    ),
)

_FIGURES = re.compile(
    r"(?<![\w.-])\$?\d[\d,]*(?:\.\d+)?%?(?![\w-])|"
    r"\b(?:two|three|four|five|six|seven|eight|nine|ten|twelve|twenty|half|twice|dozen)\b",
    re.IGNORECASE,
)
_YEAR = re.compile(r"(?:1[0-9]|20)\d\d\Z")
_LAST_QUESTION = re.compile(
    r"\b(?:how (?:many|much|long|far|fast|old|big|tall|heavy)|"
    r"what (?:is|was|will be|would be) (?:the|his|her|their|its) (?:[\w-]+ )?(?:total|average|number|cost|price|sum|"
    r"amount|age|ratio|percentage|speed|distance|profit|weight|length))\b"
    r"[^?\n]*\?\s*\Z",
    re.IGNORECASE,
)
_LONGEST = 700
"""Characters of a prompt past which a question with numbers in it is rather about a text than a word problem."""


def _is_word_problem(prompt: str) -> bool:
    if len(prompt) > _LONGEST or not _LAST_QUESTION.search(prompt):
        return False
    return sum(not _YEAR.match(figure) for figure in _FIGURES.findall(prompt)) >= 2


_RULES = {CODE: (_SYNTAX, _CODE_REQUESTS), MATH: (_WORKING, _MATH_REQUESTS)}
