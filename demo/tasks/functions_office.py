"""Functions that calculate, look up and keep books."""

from __future__ import annotations

from .contents import made_up
from .functions import DAY, NAME, TIME, Function
from .functions import Parameter as P
from .phrasing import Phrasing
from .results import calculated, done, some, word

# fmt: off
OFFICE = (
    Function(
        "date", (("get", "current", "show", "fetch"), ("date", "today", "current_date")),
        ("Get the date of today.", "Tells which day it is."), (),
        Phrasing(
            ("What day is it today?", "What is the date today?", "What is today's date?", "Which day is today?",
             "Tell me the date."),
            ("Which day is it today?", "Give me the date of today."),
        ),
        "the date",
        some(day=("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"), date=(1, 28)),
        "Today is {day} the {date}.",
    ),
    Function(
        "calculator",
        (("calculate", "compute", "evaluate", "solve", "run"), ("calculator", "expression", "math", "calculation")),
        ("Compute an expression.", "Evaluates a calculation.", "A calculator."),
        (P(("expression", "input", "formula"), "sum", "What to compute"),),
        Phrasing(
            ("What is {sum}?", "Calculate {sum}.", "Compute {sum}.", "How much is {sum}?", "{sum}", "{sum} =",
             "Tell me what {sum} is.", "What's {sum}?", "Work out {sum}."),
            ("Solve {sum}.", "What does {sum} make?", "Give me {sum}."),
        ),
        "{sum}", calculated, "{sum} is {result}.",
    ),
    Function(
        "calculator", (("calculate", "compute", "do", "run"), ("arithmetic", "math", "operation", "numbers")),
        ("Calculate with two numbers.", "Add, subtract, multiply or divide."),
        (P(("a", "x", "first"), "a", "First number", "number"),
         P(("operation", "op", "operator"), "operation", "What to do",
           choices=("add", "subtract", "multiply", "divide")),
         P(("b", "y", "second"), "b", "Second number", "number")),
        Phrasing(
            ("What is {a} {operation} {b}?", "Calculate {a} {operation} {b}.", "Compute {a} {operation} {b}.",
             "How much is {a} {operation} {b}?", "{a} {operation} {b}", "Tell me what {a} {operation} {b} is."),
            ("Work out {a} {operation} {b}.", "What's {a} {operation} {b}?"),
        ),
        "{a} {operation} {b}", calculated, "{a} {operation} {b} is {result}.",
    ),
    Function(
        "currency", (("convert", "exchange", "change", "get"), ("currency", "money", "currencies")),
        ("Convert money.", "Converts an amount of money."),
        (P(("amount", "value"), "amount", "Amount of money", "number"),
         P(("from", "source", "from_currency"), "from", "Currency to convert from"),
         P(("to", "target", "to_currency"), "to", "Currency to convert to")),
        Phrasing(
            ("Convert {amount} {from} to {to}.", "How much is {amount} {from} in {to}?",
             "What is {amount} {from} in {to}?", "Change {amount} {from} into {to}.",
             "Exchange {amount} {from} for {to}.", "{amount} {from} in {to}",
             "How many {to} is {amount} {from}?", "How many {to} do I get for {amount} {from}?",
             "What {to} are {amount} {from}?"),
            ("How many {to} are {amount} {from}?", "Exchange {amount} {from} into {to}."),
        ),
        "to convert {amount} {from} to {to}", some(result=(1, 9999)), "{amount} {from} is {result} {to}.",
    ),
    Function(
        "translate", (("translate", "get", "do"), ("translate", "translation", "text", "translator")),
        ("Translate a text.", "Translates into a language."),
        (P(("text", "input", "phrase"), "thing", "Text to translate"),
         P(("language", "target", "to"), "language", "Language to translate to")),
        Phrasing(
            ("Translate {thing} [to|into] {language}.", "Translate the word {thing} [to|into] {language}.",
             "What is {thing} in {language}?", "How do you say {thing} in {language}?",
             "How is the word {thing} said in {language}?", "How is {thing} called in {language}?",
             "How is {thing} written in {language}?", "Say {thing} in {language}.",
             "What is the {language} word for {thing}?",
             "{thing} in {language}"),
            ("Tell me {thing} in {language}.", "How is {thing} said in {language}?"),
        ),
        "{thing} in {language}", word, "{thing} in {language} is {result}.",
    ),
    Function(
        "email", (("send", "write", "compose"), ("email", "mail")),
        ("Send an email.", "Sends a mail to somebody."),
        (P(("to", "recipient", "name"), "person", "Who gets it"),
         P(("subject", "title", "about"), "thing", "What it is about")),
        Phrasing(
            ("Send an email to {person} about {thing}.", "Write an email to {person} about {thing}.",
             "Send {person} an email about {thing}.", "Email {person} about {thing}.", "Mail {person} about {thing}.",
             "Write {person} a mail about {thing}.", "Write {person} about {thing}.",
             "An email for {person} about {thing}"),
            ("Write {person} an email about {thing}.", "Send a mail to {person} about {thing}."),
        ),
        "an email to {person}", done, "I sent the email to {person}.",
    ),
    Function(
        "message", (("send", "post", "write"), ("message", "text", "sms", "chat")),
        ("Send a message.", "Sends a text to somebody."),
        (P(("to", "recipient", "name"), "person", "Who gets it"),
         P(("text", "message", "content"), "message", "What to say")),
        Phrasing(
            ("Send a message to {person}: {message}", "Tell {person}: {message}", "Write to {person}: {message}",
             "Send {person} the message: {message}", "Message {person}: {message}", "Text {person}: {message}",
             'Send "{message}" to {person}.', "Send {person} a message: {message}", "Write {person}: {message}",
             "Write {person} this message: {message}", 'Write "{message}" to {person}.'),
            ("Write {person} a message: {message}", 'Text "{message}" to {person}.'),
        ),
        "a message to {person}", done, "I sent the message to {person}.",
    ),
    Function(
        "stock", (("get", "fetch", "check", "find"), ("stock", "stock_price", "price", "quote")),
        ("Get the price of a stock.", "Price of a share."),
        (P(("symbol", "ticker", "stock"), "symbol", "Symbol of the stock"),),
        Phrasing(
            ("What is the price of {symbol}?", "How much is {symbol}?", "What is the stock price of {symbol}?",
             "Price of {symbol}", "How is {symbol} doing?", "Check the price of {symbol}.",
             "Tell me the price of the {symbol} stock."),
            ("Give me the stock price of {symbol}.", "How much is the {symbol} stock?"),
        ),
        "the price of {symbol}", some(price=(1, 999)), "{symbol} is at {price}.",
    ),
    Function(
        "search", (("search", "find", "query", "look_up"), ("web", "search", "internet", "google")),
        ("Search the web.", "Finds pages about something."), (P(("query", "q", "text"), "thing", "What to search"),),
        Phrasing(
            ("Search the web for {thing}.", "Search for {thing}.", "Look up {thing}.", "Find something about {thing}.",
             "Find pages about {thing}.", "Google {thing}."),
            ("Search pages about {thing}.", "Look for {thing} on the web."),
        ),
        "to find {thing}", some(results=(0, 999)), "I found {results} pages about {thing}.",
    ),
    Function(
        "news", (("get", "read", "fetch", "show"), ("news", "headlines", "latest_news")),
        ("Get the news.", "News about something."), (P(("topic", "about", "subject"), "thing", "What it is about"),),
        Phrasing(
            ("What is the news about {thing}?", "Give me the news about {thing}.", "News about {thing}",
             "What is new about {thing}?", "Show me the news about {thing}.", "Read me the news about {thing}."),
            ("Tell me the news about {thing}.", "Is there news about {thing}?"),
        ),
        "news about {thing}", some(articles=(0, 99)), "There are {articles} articles about {thing}.",
    ),
    Function(
        "definition", (("define", "get", "look_up", "find"), ("definition", "meaning", "dictionary", "word")),
        ("Look up a word.", "Tells what a word means."), (P(("word", "term", "text"), "thing", "The word"),),
        Phrasing(
            ("What does {thing} mean?", "Define {thing}.", "What is the meaning of {thing}?",
             "Look up the word {thing}.", "Definition of {thing}", "What is a {thing}?", "Explain the word {thing}."),
            ("Give me the meaning of {thing}.", "What is the definition of {thing}?"),
        ),
        "the meaning of {thing}", word, "{thing} means {result}.",
    ),
    Function(
        "random", (("get", "draw", "pick", "generate"), ("random_number", "random", "number")),
        ("Draw a random number.", "A random number of a range."),
        (P(("min", "low", "start"), "count", "The smallest", "integer"),
         P(("max", "high", "end"), "a", "The largest", "integer")),
        Phrasing(
            ("Give me a random number between {count} and {a}.", "Random number from {count} to {a}",
             "Draw a number between {count} and {a}.", "Pick a number from {count} to {a}."),
            ("Draw a random number from {count} to {a}.", "Pick a random number between {count} and {a}."),
        ),
        "a random number", lambda rng, passed: {"result": rng.randint(*sorted((passed["count"], passed["a"])))},
        "The number is {result}.",
    ),
    Function(
        "user", (("get", "find", "fetch", "show"), ("user", "profile", "customer", "account")),
        ("Look up a user.", "Finds a customer."),
        (P(("id", "user_id", "number"), "number", "Number of the user", "integer"),),
        Phrasing(
            ("Who is user {number}?", "Show me user {number}.", "Find the user with the number {number}.",
             "Who is customer {number}?", "Look up user {number}.", "User {number}"),
            ("Find customer {number}.", "Show me the user with the number {number}."),
        ),
        "user {number}", lambda rng, passed: {"name": made_up(rng, 3).capitalize()}, "User {number} is {name}.",
    ),
    Function(
        "order", (("get", "check", "track", "find"), ("order", "order_status", "package", "delivery")),
        ("Status of an order.", "Tells where an order is."),
        (P(("id", "order_id", "number"), "number", "Number of the order", "integer"),),
        Phrasing(
            ("Where is my order {number}?", "What is the status of order {number}?", "Track order {number}.",
             "Check order {number}.", "Order {number} status", "Where is the package {number}?"),
            ("Where is order {number}?", "Tell me the status of order {number}."),
        ),
        "order {number}", some(status=("sent", "open", "lost", "paid", "ready")), "Order {number} is {status}.",
    ),
    Function(
        "cancel", (("cancel", "remove", "delete"), ("order", "booking", "ticket")),
        ("Cancel an order.", "Cancels a booking."),
        (P(("id", "order_id", "number"), "number", "Number of the order", "integer"),),
        Phrasing(
            ("Cancel order {number}.", "Cancel my order {number}.", "Cancel booking {number}.",
             "I do not want order {number}!", "Stop order {number}."),
            ("Cancel the order {number}.", "Cancel my booking {number}."),
        ),
        "to cancel order {number}", done, "Order {number} is canceled.",
    ),
    Function(
        "file", (("open", "read", "show", "load"), ("file", "document", "page")),
        ("Open a file.", "Reads a document."), (P(("name", "path", "file"), "thing", "Name of the file"),),
        Phrasing(
            ("Open the file {thing}.", "Read the file {thing}.", "Show me the file {thing}.",
             "Open the document {thing}.", "What is in the file {thing}?"),
            ("Show me the document {thing}.", "Read me the file {thing}."),
        ),
        "the file {thing}", some(lines=(1, 999)), "The file {thing} has {lines} lines.",
    ),
    Function(
        "event", (("add", "create", "new", "schedule"), ("event", "meeting", "appointment", "calendar_event")),
        ("Add to the calendar.", "Creates an event."),
        (P(("title", "with", "name"), "person", "Who comes"), DAY, TIME),
        Phrasing(
            ("Add a meeting with {person} on {day} at {time}.", "I meet {person} on {day} at {time}!",
             "Schedule a meeting with {person} on {day} at {time}.", "Meeting with {person} on {day} at {time}",
             "Put a meeting with {person} on {day} at {time} in my calendar."),
            ("Schedule a meeting on {day} at {time} with {person}.",
             "I have a meeting with {person} on {day} at {time}!"),
        ),
        "a meeting with {person}", done, "The meeting with {person} is on {day} at {time}.",
    ),
    Function(
        "birthday", (("get", "find", "show", "look_up"), ("birthday", "birth_date", "age")),
        ("Birthday of a person.", "When somebody was born."), (NAME,),
        Phrasing(
            ("When is the birthday of {person}?", "When was {person} born?", "Birthday of {person}",
             "What is the birthday of {person}?", "Tell me the birthday of {person}."),
            ("Find the birthday of {person}.", "When does {person} have birthday?"),
        ),
        "the birthday of {person}",
        some(day=(1, 28), month=("January", "February", "March", "April", "May", "June", "July", "August")),
        "The birthday of {person} is {month} {day}.",
    ),
    Function(
        "temperature_unit", (("convert", "change", "to"), ("temperature_unit", "degrees", "units")),
        ("Convert degrees.", "Converts a temperature."),
        (P(("value", "degrees", "temperature"), "level", "Degrees", "number"),
         P(("unit", "to", "target"), "unit", "Unit to convert to", choices=("celsius", "fahrenheit"))),
        Phrasing(
            ("Convert {level} degrees to {unit}.", "What is {level} degrees in {unit}?",
             "How much is {level} degrees in {unit}?", "{level} degrees in {unit}"),
            ("Change {level} degrees to {unit}.", "Tell me {level} degrees in {unit}."),
        ),
        "{level} degrees in {unit}", some(result=(-40, 212)), "{level} degrees is {result} in {unit}.",
    ),
    Function(
        "delete", (("delete", "remove", "erase"), ("file", "document", "item")),
        ("Delete a file.", "Removes a document."), (P(("name", "path", "file"), "thing", "Name of the file"),),
        Phrasing(
            ("Delete the file {thing}.", "Remove the file {thing}.", "Delete {thing}.", "Erase the file {thing}.",
             "I do not need the file {thing}, delete it!"),
            ("Delete the document {thing}.", "Erase {thing}."),
        ),
        "to delete {thing}", done, "I deleted the file {thing}.",
    ),
    Function(
        "create_user", (("create", "add", "new", "register"), ("user", "member", "customer", "account")),
        ("Create a user.", "Registers a new member."),
        (NAME, P(("age", "years"), "minutes", "Age in years", "integer")),
        Phrasing(
            ("Create the user {person}, age {minutes}.", "Add the user {person} of age {minutes}.",
             "Add a new member: {person}, {minutes} years old", "Register {person}, {minutes} years.",
             "New user {person}, age {minutes}"),
            ("Register the user {person}, age {minutes}.", "Add {person}, {minutes} years old."),
        ),
        "a new user {person}", some(id=(1, 9999)), "{person} is user {id}.",
    ),
)
