"""Everything that the model cannot do, which is nearly everything: it is to say so and not to make something up."""

from __future__ import annotations

import random

from .base import Conversation, Reply, Turn
from .contents import LANDS, PEOPLE, PLACES, THINGS, letters, made_up
from .phrasing import Phrasing, pick
from .slots import LANGUAGES
from .split import same

CANNOT = "I am only a small demo model: I cannot do that."

FACTS = Phrasing(
    training=(
        "What is the capital of {land}?", "Who is the president of {land}?", "How many people live in {place}?",
        "Where is {place}?", "What language do they speak in {land}?", "What is the population of {land}?",
        "Which country is {place} in?", "How far is {place} from {city}?", "What is {place} known for?",
        "Tell me about {place}.", "Tell me about {person}.", "Who was {person}?", "Who is {person}?",
        "When was {person} born?", "Where does {person} live?", "What did {person} do?",
        "What is the highest mountain in {land}?", "What is the longest river in {land}?",
        "What is the largest city in {land}?", "What is a {w}?", "What are {w}s?", "What does {w} mean?", "Define {w}.",
        "Explain {w}.", "What is the meaning of {w}?", "Why do people like {w}?", "How does a {w} work?",
        "What is the history of {w}?", "Who invented the {w}?", "When was the {w} invented?",
        "Where do {w}s come from?", "How old is the {w}?", "How much does a {w} cost?", "What is the color of a {w}?",
        "What color is a {w}?", "How tall is {person}?", "How old is {person}?", "What is the speed of light?",
        "How big is the moon?", "How far is the sun?", "Why is the sky blue?", "Is the earth round?",
        "How many planets are there?", "Who won the war?", "Who won the game last night?", "What happened in {year}?",
        "Who was the king of {land} in {year}?", "What is the currency of {land}?",
        "What is the difference between {w} and {v}?", "Is {w} better than {v}?", "Which is larger, {w} or {v}?",
        "What is the best {w}?", "How many letters are in {q}?", "How many words are in this sentence?",
        "What rhymes with {w}?", "Give me a word that rhymes with {w}.", "What is the opposite of {w}?",
        "What is another word for {w}?", "Is {w} a noun or a verb?", "What is the plural of {w}?",
        "Is {n} a prime number?", "What is the square root of {n}?", "Who wrote {w}?", "Which animal is the fastest?",
        "Can {w}s swim?", "Do {w}s have legs?", "What do {w}s eat?", "How long do {w}s live?", "What is inside a {w}?",
        "What is a {w} made from?", "What are {w}s made of?", "Is a {w} made of {v}?", "What is in {w}?",
        "Name some animals.", "Tell a child about {w}.", "What is the theory of {w}?", "Name three {w}s.",
        "List five {w}s.", "Give me a list of {w}s.", "Name the planets.",
    ),
    held_out=(
        "What is the largest river in {land}?", "Who was the first president of {land}?",
        "Tell me about the history of {place}.", "What is {w} made of?",
        "Where do people speak the language of {land}?", "How old is {place}?", "Where was {person} born?",
        "What does a {w} look like?", "Why do {w}s live in {land}?", "Which {w} is the best?",
        "How far away is {place}?", "Explain the difference between {w} and {v}.", "Name five animals.",
        "How big is {place}?", "Who invented {w}?", "Why is {w} blue?",
    ),
)  # fmt: skip
NOW = Phrasing(
    training=(
        "What time is it?", "What is the time?", "What day is it today?", "What day is it?", "Which day is it now?",
        "Which date is today?", "What day is today?", "Which year is it today?", "What is the date today?",
        "What year is it?", "Which month is it now?", "What is today's date?", "What is the weather like?",
        "What is the weather in {place}?", "How is the weather in {place}?", "Will it rain tomorrow?",
        "Is it cold in {place}?", "What time is it in {place}?", "What is the news?", "What is new today?",
        "What is the price of {w}?", "How much is a {w}?", "What is the stock price of {w}?", "Where am I?",
        "What did I eat yesterday?", "What am I thinking?", "How many days until {w}?", "Can you see me?",
        "How hot is it in {place}?", "When is the next train to {place}?", "Who is here?", "When does the {w} open?",
        "Is it raining in {place}?", "Do I need an umbrella?", "What is on TV tonight?",
    ),
    held_out=(
        "Which day is it today?", "What is the time in {place}?", "Will it be cold in {place} tomorrow?",
        "What is the price of a {w} today?", "When is the next {w}?", "How is the weather today?",
        "What is the temperature in {place}?",
    ),
)  # fmt: skip
TASKS = Phrasing(
    training=(
        "Write a poem [about {w}|].", "Write me a [story|song|letter|joke|speech] about {w}.",
        "Write [a|an] [email|essay] about {w}.", "Tell me a joke.", "Tell me a [story|fairy tale].",
        "Tell me a joke about {w}s.", "Sing a song.", "Sing me a song about {w}.",
        "Translate {q} [to|into] {language}.", "Translate this to {language}: {w} {v}",
        "How do you say {q} in {language}?", "What is {q} in {language}?", "What is the {language} word for {w}?",
        "Speak {language}.", "Say hello in {language}.",
        "Write a [program|function|script] [that|to] [sorts|prints|counts] {w}s.", "Write code [for|in] {w}.",
        "Write a python program.", "Fix my code.", "Write a function in python.", "Debug this: {w}",
        "Explain this code: {w}", "Write an app.", "Write a website for {w}.", "Draw a {w}.",
        "Draw me a picture of a {w}.", "Paint a {w}.", "Show me a picture of {place}.", "Make a table of {w}s.",
        "Summarize this text: {w} {v}", "Summarize {w}.", "Make this shorter: {w} {v} {u}", "Write a summary of {w}.",
        "Plan a trip to {place}.", "Plan my day.", "Book a flight to {place}.", "Book a table.", "Order a pizza.",
        "Buy a {w}.", "Call {person}.", "Send an email to {person}.", "Send a message to {person}.", "Play some music.",
        "Play {w}.", "Play a game with me.", "Let us play chess.", "Set an alarm.", "Set a timer [for {n} minutes|].",
        "Turn on the light.", "Open the door.", "Open {w}.", "Search the web for {w}.", "Look up {w}.", "Find {w}.",
        "Find a {w} near me.", "Roll a dice.", "Flip a coin.", "Give me a random number.", "Guess a number.",
        "Think of a word.", "Cook a {w}.", "Give me a recipe for {w}.", "How do I make {w}?", "How do I cook {w}?",
        "How can I learn {language}?", "How do I get to {place}?", "Teach me {w}.", "Help me with my homework.",
        "Help me find a {w}.", "Help me with {w}.", "Give me advice about {w}.", "Check my spelling.",
        "Correct this sentence: {w} {v} {u}", "Finish this sentence: {w} {v}", "Continue: {w} {v} {u}", "Count to {n}.",
        "Count from {a} to {b}.", "Repeat after me: {w} {v}", "Say {w} {n} times.", "Do my work.", "Wake me up at {n}.",
        "Read this book.", "Describe a {w}.", "Describe {place}.", "Invent a {w}.", "Make up a story.",
        "Compare {w} and {v}.", "Tell me a secret.", "Give me a quote.", "Tell me a fact about {w}.",
        "Remind me to buy {w}.", "Delete {w}.", "Download {w}.", "Run {w}.", "Write a list of {w}s.",
        "Give me an example of {w}.", "Give me three tips for {w}.", "Generate [a|an] [image|password|picture].",
        "Shuffle these words: {w}, {v}, {u}", "Remove the letter a from {q}.", "Count the letters in {q}.",
        "Count the letters in this word: {w}", "How many words are in this text: {w} {v} {u}",
        "Count these: {w} {v} {u}",
        "Send {person} a message.", "Send {person} an email about {w}.", "Write {person} a letter about {w}.",
        "Give {person} a {w}.", "Tell {person} a story.", "Bring me a {w}.", "Change this text: {w} {v} {u}",
        "Put a {w} into this text: {v} {u}", "Turn off the {w}.", "Find the word {w} in this text: {w} {v} {u}",
    ),
    held_out=(
        "Write a song about {person}.", "Tell me a story about {w}.", "Write a letter to {person}.",
        "Say {q} in {language}.", "Write a python function that counts {w}s.", "Draw a picture of {place}.",
        "Find a recipe for {w}.", "Book a flight from {city} to {place}.", "Plan a trip to {land}.",
        "Count the words in this text: {w} {v} {u}", "Send {person} a letter.", "Make a picture of a {w}.",
        "Give me five tips about {w}.", "Explain {w} to a child.", "Help me cook {w}.", "Turn on the music.",
        "Make up a poem about {place}.", "Fix this sentence: {w} {v} {u}", "Search for {w}.",
        "Teach me how to draw a {w}.",
    ),
)  # fmt: skip
OPINIONS = Phrasing(
    training=(
        "Do you like {w}?", "Do you love me?", "What do you think about {w}?", "What is your favorite {w}?",
        "What is your opinion on {w}?", "Should I buy a {w}?", "Should I go to {place}?", "Do you believe in {w}?",
        "Are you happy?", "Are you sad?", "Do you sleep?", "Do you have a body?", "How old are you?",
        "Where do you live?", "Do you have friends?", "What do you dream of?", "Can you fly?", "Can you drive a car?",
        "Can you cook?", "Can you swim?", "Can you write code?", "Can you paint?", "Can you sing?", "Can you dance?",
        "Can you see?", "Can you paint well?", "Do you draw?", "Can you run?", "Can you talk?", "Can you hear?",
        "Can you think?", "Can you feel?", "Can you play?", "Can you learn?", "Do you know how to dance?",
        "Can you walk?", "Can you read?", "Can you drive?", "Can you {w}?", "Can you draw a {w}?",
        "Can you speak {language}?", "Can you multiply?", "Can you translate?",
        "What is the meaning of life?", "Is there life on the moon?",
        "What will happen tomorrow?", "Who will win the game?", "Is {person} a good person?", "Do you know {person}?",
        "Will {w} be better?", "What is love?", "I am sad!", "I feel sick!", "I am hungry!", "I need a doctor!",
        "I like {w}!", "I do not like {w}!", "I went to {place} yesterday!", "I want a {w}!", "I lost my {w}!",
        "My {w} is broken!", "You are wrong!", "You are stupid!", "I love you!", "It is cold today!",
        "The {w} is in the {v}!", "{person} has a {w}!", "We are going to {place}!", "What do you think of {person}?",
        "What do you think of {w}s?", "What do you say to {place}?", "What do you like?", "What do you feel?",
        "What is your favorite city?", "What is your favorite color?", "What is your favorite word?",
        "What is your age?", "What is your home?", "Which language is your favorite?",
        "What do people think of {place}?",
    ),
    held_out=(
        "What do you think of {place}?", "Do you like to cook?", "Should I learn {language}?", "Is {w} good for me?",
        "Do you know how to swim?", "Can you draw?", "I feel sad today!", "What is your favorite language?",
        "I want to go to {place}!", "My {w} is cold!",
    ),
)  # fmt: skip
SUMS = Phrasing(
    training=(
        "What is {a} times {b}?", "What is {a} multiplied by {b}?", "{a} * {b}", "{a}*{b}[|=]", "{a} x {b}",
        "{a} times {b}", "{a} / {b}", "{a}/{b}[|=]", "What is {a} divided by {b}?", "Divide {a} by {b}.",
        "Multiply {a} by {b}.", "Multiply {a} and {b}.", "How much is {a} times {b}?",
        "What is {a} to the power of {b}?", "{a} ^ {b}", "What is {big} + {b}?", "What is {big} [+|plus] {bigger}?",
        "{big} + {bigger}", "{big} - {b}", "How much is {big} minus {b}?", "{big}+{b}", "{big}-{bigger}",
        "Add {b} to {big}.", "Subtract {b} from {big}.", "What is {a}.{b} + {b}.{a}?", "{a} + {b} + {c}",
        "{a} - {b} + {c}", "{a} + {b} - {c}", "What is {a} + {b} + {c}?", "What is {a} percent of {b}?",
        "What is half of {a}?", "Calculate {a} * {b}.", "Compute {a} / {b}.", "Solve x + {a} = {b}.",
        "What is the square of {a}?", "What is the product of {a} and {b}?", "What is the average of {a} and {b}?",
        "Is {a} larger than {b}?", "Is {a} smaller or larger than {b}?", "Is {a} smaller than {c}?",
        "Is {a} less than {b}?", "Is {a} more than {b}?", "Is {a} bigger than {b}?", "Is {a} greater than {c}?",
        "Is {a} smaller or bigger than {b}?",
        "Which is smaller, {a} or {b}?", "Which one is bigger, {a} or {c}?", "Is {a} equal to {b}?",
        "Are {a} and {b} equal?", "Is {a} as large as {b}?", "Is {c} the smaller number or {a}?",
        "What is {a} - {b} + {c}?", "What is {a} + {b} - {c}?", "{a} - {b} - {c}",
        "How much is {a} - {b} - {c}?", "Are {a} and {b} the same?", "-{a} + {b}", "What is -{a} plus {b}?",
        "Which is larger, {a} or {b}?", "Round {a}.{b}.", "Is {a} even?", "Is {a} an even number?",
        "Write {a} in words.", "What is {a} in binary?", "Convert {a} to binary.", "Double {a}.",
    ),
    held_out=(
        "Calculate {a} times {b}.", "What is {a} x {b}?", "How much is {a} divided by {b}?",
        "Compute {big} plus {bigger}.", "Find the product of {a} and {b}.", "What is {a} - {b} - {c}?",
        "Is {b} smaller than {a}?", "What is {a} percent of {big}?", "Convert {a} to words.",
    ),
)  # fmt: skip
NOISE = Phrasing(
    training=(
        "{g}", "{g} {h}", "{g} {h} {w}", "{w}", "{w} {v}", "{w}?", "{w} {v} {u}", "{g}!", "{n}", "{n} {w}", "{g} {n}",
        "{w} {g} {v}", "? {g}", "The {g}", "The {w}", "A {w}", "{w} and {v}", "{w} is {v}", "{g} {h} {g} {h}",
        "Why {w}?", "How {w}?", "When {w} {v}?", "Who {w} {v}?", "Where {w}?", "Why is {w} {v}?", "How do I {w} {v}?",
        "What is {w} {v}?", "Can you {w} {v}?", "Is {w} {v} {u}?", "{w} the {v}", "{w} a {v} for {u}", "Please {w} {v}",
        "Should I {w} the {v}?", "I {w} the {v}", "The {w} {v} {u}", "{person}", "{place}",
        "How many {w} does {person} {v}?", "What {w} {v} in {place}?", "Does {person} {w}?", "Explain how {w} {v}.",
        "Tell me {w} {v}.", "Which {w} {v} {u}?", "What if {w} {v}?", "What {w} is {v}?", "How much {w} is in {v}?",
        "Do {w} {v}?", "Did {person} {w} the {v}?",
    ),
    held_out=(
        "{h} {g}", "{v} {w} {g} {u}", "A {g}", "Why do {w} {v}?", "How does {person} {w}?", "Who {w} the {v}?",
        "Can I {w} the {v}?", "Where does the {w} {v}?", "{w} {v} {place}", "What did {person} {w}?",
    ),
    dressed=False,
)  # fmt: skip


class Beyond:
    """`I am only a small demo model: I cannot do that.`"""

    name = "beyond"
    phrasings = (FACTS, NOW, TASKS, OPINIONS, SUMS, NOISE)
    says = (CANNOT, " ".join(LANGUAGES))

    def __init__(self, with_tools: bool = False) -> None:
        """`with_tools`: only what no function could help with."""
        self._weights = (0, 0, 0, 1, 0, 1) if with_tools else (3, 1, 4, 2, 2, 3)

    def draw(self, rng: random.Random, held_out: bool) -> Conversation:
        phrasing = rng.choices(self.phrasings, self._weights)[0]
        return Conversation(self.name, (Turn(phrasing.draw(rng, held_out, **_slots(rng, held_out)), Reply(CANNOT)),))

    def right(self, turn: Turn, said: str) -> bool:
        return same(turn.reply.text, said)


def _slots(rng: random.Random, held_out: bool) -> dict[str, object]:
    """Something for every slot that the templates have."""
    w, v, u = (THINGS.draw(rng, held_out) for _ in range(3))
    return {
        "w": w,
        "v": v,
        "u": u,
        "q": f'"{w}"' if rng.random() < 0.6 else w,
        "g": letters(rng),
        "h": made_up(rng),
        "place": PLACES.draw(rng, held_out),
        "city": PLACES.draw(rng, held_out),
        "land": LANDS.draw(rng, held_out),
        "person": PEOPLE.draw(rng, held_out),
        "language": pick(rng, LANGUAGES),
        "year": 1000 + int(rng.random() * 1030),
        "n": 2 + int(rng.random() * 98),
        "a": int(rng.random() * pick(rng, (100, 1000))),
        "b": 1 + int(rng.random() * pick(rng, (20, 999))),
        "c": int(rng.random() * 100),
        "big": 1000 + int(rng.random() * pick(rng, (9000, 99000, 10**7))),
        "bigger": 1000 + int(rng.random() * pick(rng, (9000, 99000, 10**7))),
    }
