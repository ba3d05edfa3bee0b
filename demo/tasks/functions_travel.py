"""Functions about places: weather, time, the way there."""

from __future__ import annotations

from .contents import made_up
from .functions import CITY, DAY, TIME, Function
from .functions import Parameter as P
from .phrasing import Phrasing
from .results import SKIES, clock, some

# fmt: off
TRAVEL = (
    Function(
        "weather",
        (("get", "fetch", "check", "current", "show", "find"),
         ("weather", "current_weather", "temperature", "conditions")),
        ("Get the weather in a city.", "Current weather of a place.", "Tells the weather now."),
        (CITY,
         P(("unit", "units"), "unit", "Unit of the temperature", choices=("celsius", "fahrenheit"), required=False)),
        Phrasing(
            ("What is the weather in {city}{more}?", "How is the weather in {city}{more}?",
             "What's the weather like in {city}{more}?", "Tell me the weather in {city}{more}.",
             "What is the temperature in {city}{more}?", "How [warm|cold|hot] is it in {city}{more}?",
             "Weather in {city}{more}", "Is it [cold|warm|sunny|raining] in {city}{more}?",
             "Check the weather in {city}{more}."),
            ("Give me the weather in {city}{more}.", "What is the weather now in {city}{more}?",
             "How is the temperature in {city}{more}?"),
        ),
        "the weather in {city}", some(temperature=(-9, 38), sky=SKIES),
        "It is {temperature} degrees and {sky} in {city}.", " in {unit}",
    ),
    Function(
        "weather", (("get", "fetch", "check", "show"), ("forecast", "weather_forecast", "outlook")),
        ("Get the weather forecast.", "Forecast for the next days."),
        (CITY, P(("days", "count"), "count", "Number of days", "integer")),
        Phrasing(
            ("What is the forecast for {city} for {count} days?", "Forecast for {city}, {count} days",
             "What will the weather be in {city} in the next {count} days?",
             "Give me the {count} day forecast for {city}.", "Show me the forecast of {count} days for {city}."),
            ("Tell me the forecast for {city} for the next {count} days.",
             "What is the {count} day forecast in {city}?"),
        ),
        "the forecast for {city}", some(high=(10, 38), sky=SKIES),
        "The next {count} days in {city} will be {sky}, up to {high} degrees.",
    ),
    Function(
        "time", (("get", "fetch", "current", "show", "world"), ("time", "clock", "local_time", "city_time")),
        ("Get the time in a city.", "Local time of a place.", "Tells what time it is."), (CITY,),
        Phrasing(
            ("What time is it in {city}?", "What is the time in {city}?", "Time in {city}",
             "Tell me the time in {city}.", "How late is it in {city}?", "What's the time in {city}?",
             "What is the local time in {city}?"),
            ("What time is it now in {city}?", "Give me the time in {city}."),
        ),
        "the time in {city}", clock, "It is {time} in {city}.",
    ),
    Function(
        "distance", (("get", "compute", "find", "measure"), ("distance", "route", "directions", "way")),
        ("Distance between two cities.", "Finds a way."),
        (P(("from", "start", "origin"), "city", "Where it starts"),
         P(("to", "end", "destination"), "town", "Where it ends")),
        Phrasing(
            ("How far is it from {city} to {town}?",
             "What is the distance [between {city} and {town}|from {city} to {town}]?",
             "How far is {town} from {city}?", "How do I get from {city} to {town}?", "Distance from {city} to {town}",
             "Find the way from {city} to {town}."),
            ("Tell me the distance from {city} to {town}.", "How far is the way from {city} to {town}?"),
        ),
        "the way from {city} to {town}", some(km=(5, 9999)), "It is {km} km from {city} to {town}.",
    ),
    Function(
        "table", (("book", "reserve", "get"), ("table", "restaurant", "dinner")),
        ("Book a table.", "Reserves a table in a restaurant."),
        (P(("people", "guests", "count"), "count", "Number of people", "integer"), TIME),
        Phrasing(
            ("Book a table for {count} people at {time}.", "Reserve a table for {count} at {time}.",
             "I need a table for {count} at {time}!", "Table for {count} people at {time}",
             "We are {count} people and want to eat at {time}!"),
            ("Book a table at {time} for {count} people.", "Get us a table for {count} at {time}."),
        ),
        "a table for {count}", some(number=(1, 99)), "Table {number} is booked for {count} people at {time}.",
    ),
    Function(
        "flight", (("book", "find", "search", "get"), ("flight", "flights", "plane")),
        ("Find a flight.", "Searches flights between cities."),
        (P(("from", "origin", "start"), "city", "Where it starts"),
         P(("to", "destination", "end"), "town", "Where it goes"), DAY),
        Phrasing(
            ("Find a flight from {city} to {town} on {day}.", "Book a flight from {city} to {town} on {day}.",
             "I want to fly from {city} to {town} on {day}!", "Is there a flight from {city} to {town} on {day}?",
             "On {day} I want to fly from {city} to {town}!", "Book a flight on {day}, from {city} to {town}.",
             "Find a flight to {town} from {city} on {day}.", "Is there a flight on {day} from {city} to {town}?",
             "Flight from {city} to {town} on {day}"),
            ("Search a flight on {day} from {city} to {town}.", "I need a flight from {city} to {town} on {day}!"),
        ),
        "a flight from {city} to {town}", some(flight=(100, 999), price=(50, 999)),
        "Flight {flight} to {town} costs {price}.",
    ),
    Function(
        "hotel", (("book", "find", "search", "reserve"), ("hotel", "hotels", "hotel_room")),
        ("Find a hotel.", "Books a room in a hotel."),
        (CITY, P(("nights", "days", "duration"), "count", "Number of nights", "integer")),
        Phrasing(
            ("Find a hotel in {city} for {count} nights.", "Book a hotel in {city} for {count} nights.",
             "I need a room in {city} for {count} nights!", "I stay in {city} for {count} nights, find a hotel!",
             "Hotel in {city}, {count} nights"),
            ("Book a room in {city} for {count} nights.", "I need a hotel for {count} nights in {city}!"),
        ),
        "a hotel in {city}", some(price=(40, 400)), "A hotel in {city} costs {price} a night.",
    ),
    Function(
        "population", (("get", "count", "find", "show"), ("population", "people", "inhabitants")),
        ("Number of people in a city.", "Get the population."), (CITY,),
        Phrasing(
            ("How many people live in {city}?", "What is the population of {city}?", "Population of {city}",
             "How big is {city}?", "Tell me the population of {city}."),
            ("Give me the number of people in {city}.", "How many people are in {city}?"),
        ),
        "the population of {city}", some(population=(1000, 9999999)), "{population} people live in {city}.",
    ),
    Function(
        "capital", (("get", "find", "show", "look_up"), ("capital", "country_capital", "capital_city")),
        ("Get the capital of a country.",), (P(("country", "land", "name"), "land", "Name of the country"),),
        Phrasing(
            ("What is the capital of {land}?", "Capital of {land}", "Which city is the capital of {land}?",
             "Tell me the capital of {land}.", "Name the capital of {land}."),
            ("Find the capital of {land}.", "Give me the capital of {land}."),
        ),
        "the capital of {land}", lambda rng, passed: {"capital": made_up(rng, 3).capitalize()},
        "The capital of {land} is {capital}.",
    ),
    Function(
        "movie", (("get", "find", "list", "show"), ("movies", "films", "cinema", "movie_times")),
        ("Movies in a city.", "What the cinema shows."), (CITY, DAY),
        Phrasing(
            ("Which movies are on in {city} on {day}?", "What is on at the cinema in {city} on {day}?",
             "Which movies are on on {day} in {city}?", "Show me what is on in the cinema on {day} in {city}.",
             "Movies in {city} on {day}", "Find a movie in {city} on {day}.",
             "Show me the movies in {city} on {day}."),
            ("What movies are there in {city} on {day}?", "Tell me the movies on {day} in {city}."),
        ),
        "movies in {city}", lambda rng, passed: {"movie": made_up(rng, 3).capitalize()}, "{movie} is on in {city}.",
    ),
    Function(
        "taxi", (("call", "order", "book", "get"), ("taxi", "cab", "ride", "car")),
        ("Order a taxi.", "Brings the user somewhere."), (P(("to", "destination", "city"), "city", "Where to go"),),
        Phrasing(
            ("Order a taxi to {city}.", "I need a taxi to {city}!", "Get me a taxi to {city}.",
             "Call a taxi to {city}.", "I need a ride to {city}!"),
            ("Book a taxi to {city}.", "Get me a ride to {city}."),
        ),
        "a taxi to {city}", some(minutes=(2, 40)), "The taxi to {city} comes in {minutes} minutes.",
    ),
    Function(
        "train", (("get", "find", "next", "search"), ("train", "trains", "train_times")),
        ("Find a train.", "Next train to a city."), (P(("to", "destination", "city"), "city", "Where to go"),),
        Phrasing(
            ("When is the next train to {city}?", "Find a train to {city}.",
             "When does the next train leave for {city}?", "Next train to {city}", "When does a train go to {city}?",
             "When is the train to {city}?", "When do the trains to {city} leave?", "Which train goes to {city}?",
             "I want to take the train to {city}!"),
            ("When does the train to {city} leave?", "Tell me the next train to {city}."),
        ),
        "a train to {city}", clock, "The next train to {city} leaves at {time}.",
    ),
    Function(
        "score", (("get", "check", "find", "show"), ("score", "game", "match", "result")),
        ("Score of a team.", "How a game went."), (P(("team", "club", "name"), "city", "Name of the team"),),
        Phrasing(
            ("How did {city} play?", "What is the score of {city}?", "Did {city} win?", "Score of {city}",
             "Check the game of {city}."),
            ("Tell me the score of {city}.", "How did the game of {city} go?"),
        ),
        "the score of {city}", some(us=(0, 9), them=(0, 9)), "The score of {city} is {us} to {them}.",
    ),
    Function(
        "sunrise", (("get", "find", "show", "compute"), ("sunrise", "sunset", "sun_times")),
        ("Sunrise in a city.", "When the sun comes up."), (CITY,),
        Phrasing(
            ("When is sunrise in {city}?", "When does the sun come up in {city}?",
             "When does the sun rise over {city}?", "Sunrise in {city}", "What time is sunrise in {city}?",
             "Tell me when the sun comes up in {city}."),
            ("When does the sun rise in {city}?", "What time does the sun come up in {city}?"),
        ),
        "the sunrise in {city}", clock, "The sun comes up at {time} in {city}.",
    ),
)
