"""Functions around the house and the telephone."""

from __future__ import annotations

from .functions import NAME, TIME, Function
from .functions import Parameter as P
from .phrasing import Phrasing
from .results import done, some

# fmt: off
HOME = (
    Function(
        "lights", (("set", "switch", "turn", "control"), ("lights", "light", "lamp")),
        ("Turn the lights on or off.", "Switches a light."),
        (P(("room", "place", "where"), "room", "Which room"),
         P(("on", "state", "active"), "on", "On or off", "boolean")),
        Phrasing(
            ("Turn {on} the light in the {room}.", "Turn {on} the lights in the {room}.",
             "Switch {on} the light in the {room}.", "Lights {on} in the {room}", "Turn the {room} light {on}.",
             "Turn the light in the {room} {on}."),
            ("Switch the {room} lights {on}.", "Switch {on} the lights in the {room}."),
        ),
        "the light in the {room} {on}", done, "The light in the {room} is {on}.",
    ),
    Function(
        "heating", (("set", "change", "adjust", "control"), ("thermostat", "heating", "room_temperature")),
        ("Set the heating.", "Sets the temperature of a room."),
        (P(("temperature", "degrees", "value"), "degrees", "Degrees", "number"),
         P(("room", "place", "where"), "room", "Which room")),
        Phrasing(
            ("Set the {room} to {degrees} degrees.", "Heat the {room} to {degrees} degrees.",
             "Make the {room} {degrees} degrees.", "Set the temperature in the {room} to {degrees}.",
             "I want {degrees} degrees in the {room}!"),
            ("Change the temperature in the {room} to {degrees} degrees.",
             "Set the {room} temperature to {degrees} degrees."),
        ),
        "{degrees} degrees in the {room}", done, "The {room} is set to {degrees} degrees.",
    ),
    Function(
        "lock", (("set", "control", "switch", "change"), ("lock", "door_lock", "door")),
        ("Lock or unlock a door.",),
        (P(("room", "door", "place"), "room", "Which room"),
         P(("locked", "closed", "lock"), "locked", "Whether it is locked", "boolean")),
        Phrasing(
            ("{locked} the {room} door.", "{locked} the door of the {room}.", "{locked} the {room}.",
             "{locked} the door at the {room}."),
            ("{locked} the door in the {room}.", "{locked} the door to the {room}."),
        ),
        "the door of the {room}", done, "Done: the door of the {room}.",
    ),
    Function(
        "timer", (("set", "start", "create", "new"), ("timer", "countdown", "kitchen_timer")),
        ("Start a timer.", "Counts down minutes."),
        (P(("minutes", "duration", "time"), "minutes", "How many minutes", "integer"),),
        Phrasing(
            ("Set a timer for {minutes} minutes.", "Start a timer of {minutes} minutes.", "Timer {minutes} minutes",
             "Start a {minutes} minute timer.", "Count down {minutes} minutes.",
             "Set the timer to {minutes} minutes."),
            ("Start the timer for {minutes} minutes.", "I want a timer of {minutes} minutes!"),
        ),
        "a timer of {minutes} minutes", done, "The timer is set to {minutes} minutes.",
    ),
    Function(
        "alarm", (("set", "create", "add", "new"), ("alarm", "wake_up", "alarm_clock")),
        ("Set an alarm.", "Wakes the user up."), (TIME,),
        Phrasing(
            ("Set an alarm for {time}.", "Wake me up at {time}.", "Alarm at {time}", "Set the alarm to {time}.",
             "I have to get up at {time}!"),
            ("I want to wake up at {time}!", "Set my alarm for {time}."),
        ),
        "an alarm at {time}", done, "The alarm is set for {time}.",
    ),
    Function(
        "reminder", (("set", "add", "create", "new"), ("reminder", "alert", "task_reminder")),
        ("Set a reminder.", "Reminds the user of something."),
        (P(("text", "task", "what"), "chore", "What to remember"), TIME),
        Phrasing(
            ("Remind me to {chore} at {time}.", "Set a reminder to {chore} at {time}.",
             "At {time} remind me to {chore}.", "I have to {chore} at {time}, remind me!",
             "Reminder: {chore} at {time}"),
            ("Set a reminder at {time} to {chore}.", "I want a reminder at {time} to {chore}!"),
        ),
        "a reminder at {time}", done, "I will remind you to {chore} at {time}.",
    ),
    Function(
        "music", (("play", "start", "listen"), ("music", "song", "track")),
        ("Play a song.", "Plays music."),
        (P(("song", "title", "track"), "thing", "Name of the song"),
         P(("artist", "singer", "by"), "person", "Who sings it", required=False)),
        Phrasing(
            ("Play {thing}{more}.", "Play the song {thing}{more}.", "Play me {thing}{more}.",
             "I want to hear {thing}{more}!", "Start the song {thing}{more}.", "Put on {thing}{more}."),
            ("I want to hear the song {thing}{more}!", "Play me the song {thing}{more}."),
        ),
        "to hear {thing}", done, "Now playing {thing}.", " by {person}",
    ),
    Function(
        "volume", (("set", "change", "adjust"), ("volume", "sound", "loudness")),
        ("Set the volume.", "Changes how loud it is."),
        (P(("level", "volume", "value"), "level", "From 0 to 100", "integer"),),
        Phrasing(
            ("Set the volume to {level}.", "Volume {level}", "Change the volume to {level}.",
             "Turn the volume to {level}.", "Make the volume {level}."),
            ("Put the volume at {level}.", "I want the volume at {level}!"),
        ),
        "the volume at {level}", done, "The volume is set to {level}.",
    ),
    Function(
        "stop", (("stop", "pause", "end"), ("playback", "player", "media")),
        ("Stop the music.", "Stops what is playing."), (),
        Phrasing(
            ("Stop the music.", "Stop playing.", "Pause the music.", "Stop it.", "Be quiet.", "Stop this music.",
             "Pause the player.", "Pause this.", "Pause it."),
            ("Stop the song.", "Pause the song."),
        ),
        "the music to stop", done, "The music has stopped.",
    ),
    Function(
        "call", (("call", "phone", "dial", "start"), ("call", "phone_call", "contact")),
        ("Call somebody.", "Starts a phone call."), (NAME,),
        Phrasing(
            ("Call {person}.", "Phone {person}.", "Call {person} on the phone.", "I want to talk to {person}!",
             "Start a call with {person}."),
            ("I want to call {person}!", "Start a phone call with {person}."),
        ),
        "to call {person}", done, "Calling {person}.",
    ),
    Function(
        "photo", (("take", "make", "shoot"), ("photo", "picture", "selfie")),
        ("Take a photo.", "Makes a picture."), (),
        Phrasing(
            ("Take a photo.", "Take a picture.", "Make a photo.", "Take a photo of me."),
            ("Make a picture.", "Take a picture of me."),
        ),
        "a photo", done, "I took a photo.",
    ),
    Function(
        "battery", (("get", "check", "read"), ("battery", "battery_level", "charge")),
        ("Level of the battery.", "Tells how full the battery is."), (),
        Phrasing(
            ("How full is the battery?", "What is the battery level?", "Check the battery.",
             "How much battery is left?", "Battery level"),
            ("Tell me the battery level.", "How much battery do I have?"),
        ),
        "the battery level", some(percent=(1, 100)), "The battery is at {percent} percent.",
    ),
    Function(
        "note", (("add", "save", "create", "write", "take"), ("note", "memo", "notes")),
        ("Save a note.", "Writes something down."), (P(("text", "note", "content"), "chore", "What to write"),),
        Phrasing(
            ("Take a note: {chore}", "Note: {chore}", "Write down: {chore}", "Save a note: {chore}",
             "Make a note to {chore}.", "Add a note: {chore}"),
            ("Write a note: {chore}", "Make a note: {chore}"),
        ),
        "to note: {chore}", done, "I saved the note: {chore}.",
    ),
    Function(
        "list", (("list", "show", "get", "read"), ("reminders", "tasks", "todos", "all_tasks")),
        ("List all tasks.", "Shows what there is to do."), (),
        Phrasing(
            ("What do I have to do?", "Show me my tasks.", "List my tasks.", "What are my tasks?",
             "What is there to do today?"),
            ("Tell me my tasks.", "Show me what I have to do."),
        ),
        "the list of tasks", some(tasks=(0, 30)), "You have {tasks} tasks.",
    ),
    Function(
        "cart", (("add", "put", "buy", "order"), ("to_cart", "item", "shopping", "product", "cart_item")),
        ("Add to the shopping list.", "Buys something."),
        (P(("item", "product", "name"), "goods", "What to buy"),
         P(("quantity", "count", "amount"), "count", "How many", "integer")),
        Phrasing(
            ("Add {count} {goods} to the shopping list.", "Buy {count} {goods}.",
             "Put {count} {goods} on the shopping list.", "Order {count} {goods}.", "I want to buy {count} {goods}!",
             "Add {count} {goods} to my cart.", "I want {count} {goods} in my cart!",
             "Put {count} {goods} into the cart."),
            ("Put {count} {goods} in my cart.", "I want to order {count} {goods}!"),
        ),
        "{count} {goods}", done, "I added {count} {goods}.",
    ),
    Function(
        "pizza", (("order", "buy", "get"), ("pizza", "food", "pizzas")),
        ("Order a pizza.", "Brings pizza."),
        (P(("size", "kind"), "size", "Size of the pizza", choices=("small", "medium", "large")),
         P(("count", "quantity", "number"), "count", "How many", "integer")),
        Phrasing(
            ("Order {count} {size} pizzas.", "I want {count} {size} pizzas!", "Get me {count} {size} pizzas.",
             "We need {count} {size} pizzas!", "{count} {size} pizzas"),
            ("Buy {count} {size} pizzas.", "I need {count} {size} pizzas!"),
        ),
        "{count} {size} pizzas", some(minutes=(10, 90)), "{count} {size} pizzas will be there in {minutes} minutes.",
    ),
    Function(
        "recipe", (("get", "find", "search", "show"), ("recipe", "recipes", "cooking")),
        ("Find a recipe.", "Tells how to cook something."),
        (P(("dish", "food", "name"), "thing", "What to cook"),
         P(("people", "servings", "count"), "count", "For how many", "integer", required=False)),
        Phrasing(
            ("Find a recipe for {thing}{more}.", "How do I cook {thing}{more}?", "Give me a recipe for {thing}{more}.",
             "Recipe for {thing}{more}", "I want to cook {thing}{more}!", "How do I make {thing}{more}?"),
            ("Show me a recipe for {thing}{more}.", "I need a recipe for {thing}{more}!"),
        ),
        "a recipe for {thing}", some(minutes=(5, 180)), "{thing} takes {minutes} minutes to cook.",
        " for {count} people",
    ),
    Function(
        "dice", (("roll", "throw", "cast"), ("dice", "die", "dices")),
        ("Roll a dice.", "Throws dice."), (P(("sides", "faces", "max"), "count", "Number of sides", "integer"),),
        Phrasing(
            ("Roll a dice with {count} sides.", "Throw a dice with {count} sides.", "Roll a {count} sided dice.",
             "Roll a die with {count} sides."),
            ("Throw a {count} sided dice.", "Throw a die with {count} sides."),
        ),
        "a dice with {count} sides", lambda rng, passed: {"result": rng.randint(1, passed["count"])},
        "The dice shows {result}.",
    ),
    Function(
        "coin", (("flip", "toss", "throw"), ("coin", "a_coin")),
        ("Flip a coin.", "Heads or tails."), (),
        Phrasing(
            ("Flip a coin.", "Toss a coin.", "Throw a coin.", "Heads or tails?", "Flip the coin."),
            ("Toss the coin.", "Throw the coin."),
        ),
        "to flip a coin", some(side=("heads", "tails")), "The coin shows {side}.",
    ),
)
