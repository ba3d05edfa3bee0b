"""The page of English from which a made-up checkpoint's tokenizer learns its merges. Written for this project."""

ENGLISH = """\
The yard lies where the lines from the north and the lines from the west come together. All night long the trains come
in, and each of them brings cars for a hundred places. A car with grain must go to the mill, a car with coal must go to
the power station, and a car with letters has to leave again before the morning. Nobody could keep all of this in his
head, and nobody has to. The yardmaster stands in the tower above the tracks with a list in his hand. He looks at every
car as it rolls over the hump, reads its number, and calls out the track on which it belongs.

"Seven to the third track, twelve to the ninth!" he says, and the switches move under the wheels. The cars run down the
slope, one after another, and find their own way to the place where they are wanted. When a track is full, a new train
is made up from it: the engine backs in, the couplings close, the brakes are tested, and the signal turns green. What
came in as one long mixed train goes out as ten trains, each of them bound for a different town.

There are days when everything happens at once. If forty cars arrive for the same track, then that track will be too
short, and the others stand idle while the work piles up in front of one switch. A good yardmaster sees it coming. He
thinks about how many cars there are, how fast they can be sorted, which engine is free, and what would happen if one of
them broke down. He never sends a car over the hump before he knows where it should stop. He would rather let a train
wait outside for five minutes than have it block the whole yard for an hour.

"How do you know all that?" a young woman asked him once. She had come to learn the work and had been watching for about
three weeks. "I don't know it," he answered. "I count. First I count what is here, then I count what is coming, and then
I subtract. It isn't magic, it's arithmetic, and you could do it as well as I can." She laughed, but she wrote it down.
The next evening she made a table with two columns, and by the end of the week she could say which track would fill up
first. "Very good," said the old man. "Now tell me why you think so, and what we ought to do about it."

Questions like these have answers that can be checked. What is the capital of France? Paris is the capital of France.
How much is two and two? It is four, and 12 times 12 is 144. Who wrote this book, when was it written, where can I find
it, and is there another one that you would like better? Please write a short story about a dog and a cat who live in a
small house near the river. Please explain, step by step, how water becomes ice, why the sky is blue in the day and dark
at night, and what makes the moon change its shape. Give me an example. Thank you, that was helpful!

A computer does its work in much the same way as the yard. Data come in from the network, small pieces of many messages,
and each piece has to reach the right memory at the right time. The program reads a value, compares it with another,
adds them, and returns the result. Here is a function in Python that takes a list of numbers and gives back the largest:

def largest(numbers):
    best = numbers[0]
    for number in numbers[1:]:
        if number > best:
            best = number
    return best

print(largest([3, 1, 4, 1, 5, 9, 2, 6]))  # prints 9

And here is the same thing as data: {"name": "largest", "arguments": {"numbers": [3, 1, 4, 1, 5]}, "strict": true}.

Some words are used more often than others: I, you, he, she, it, we, they, me, him, her, us, them, my, your, his, its,
our, their, this, that, these, those, a, an, the, and, or, but, not, no, yes, if, then, else, because, so, while, until,
before, after, during, since, with, without, within, from, to, into, onto, over, under, above, below, between, through,
around, against, across, behind, beyond, near, at, by, for, of, off, on, in, out, up, down, as, like, than, be, am, is,
are, was, were, been, being, have, has, had, having, do, does, did, done, doing, will, would, shall, should, can, could,
may, might, must, go, goes, went, gone, come, came, make, made, take, took, taken, give, gave, given, get, got, find,
found, know, knew, known, think, thought, see, saw, seen, look, want, use, used, work, call, try, ask, need, feel, felt,
become, leave, left, put, mean, keep, kept, let, begin, began, seem, help, talk, turn, start, show, hear, heard, play,
run, move, live, believe, hold, held, bring, brought, happen, write, wrote, written, provide, sit, stand, lose, lost,
pay, paid, meet, include, continue, set, learn, lead, understand, watch, follow, stop, create, speak, read, allow, add,
spend, grow, open, walk, win, offer, remember, love, consider, appear, buy, wait, serve, die, send, expect, build, stay,
fall, cut, reach, kill, remain, time, year, people, way, day, man, thing, woman, life, child, world, school, state,
family, student, group, country, problem, hand, part, place, case, week, company, system, program, question, government,
number, night, point, home, water, room, mother, area, money, story, fact, month, lot, right, study, book, eye, job,
word, business, issue, side, kind, head, house, service, friend, father, power, hour, game, line, end, member, law, car,
city, community, name, president, team, minute, idea, kid, body, information, back, parent, face, others, level, office,
door, health, person, art, war, history, party, result, change, morning, reason, research, girl, guy, moment, air,
teacher, force, education, good, new, first, last, long, great, little, own, other, old, right, big, high, different,
small, large, next, early, young, important, few, public, bad, same, able, sure, true, whole, possible, certain, clear.
"""
