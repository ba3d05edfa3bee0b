// What the openai package for Node does with a server: `node scenarios.mjs NAME URL KEY MODEL` prints the outcome as JSON.
import OpenAI from "openai";
import { zodFunction, zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

const [name, baseURL, apiKey, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0, timeout: 20000 });
const messages = [{ role: "user", content: "hi" }];
const Wagon = z.object({ number: z.number().int(), cargo: z.string() });
const Yard = z.object({ yard: z.string() });
const parameters = { type: "object", properties: { yard: { type: "string" } }, required: ["yard"] };
const tool = { type: "function", function: { name: "tracks", parameters } };

const scenarios = {
  async chat() {
    const answer = await client.chat.completions.create({ model, messages, reasoning_effort: "low" });
    const { message } = answer.choices[0];
    const again = await client.chat.completions.create({ model, messages: [...messages, message, ...messages] });
    return { message, usage: answer.usage, again: again.choices[0].message.content };
  },
  async chatStream() {
    let content = "";
    let reasoning = "";
    let usage = null;
    const stream_options = { include_usage: true };
    for await (const chunk of await client.chat.completions.create({ model, messages, stream: true, stream_options })) {
      content += chunk.choices[0]?.delta.content ?? "";
      reasoning += chunk.choices[0]?.delta.reasoning_content ?? "";
      usage = chunk.usage ?? usage;
    }
    return { content, reasoning, usage };
  },
  async chatStreamHelper() {
    const seen = [];
    const stream = client.chat.completions.stream({ model, messages }).on("content", (delta) => seen.push(delta));
    return { final: await stream.finalContent(), seen: seen.join(""), reason: (await stream.finalChatCompletion()).choices[0].finish_reason };
  },
  async chatParse() {
    const response_format = zodResponseFormat(Wagon, "wagon");
    const whole = await client.chat.completions.parse({ model, messages, response_format });
    const streamed = await client.chat.completions.stream({ model, messages, response_format }).finalChatCompletion();
    return [whole.choices[0].message.parsed, streamed.choices[0].message.parsed];
  },
  async chatTools() {
    const function_ = (args) => `${args.yard} has 40`;
    const tools = [zodFunction({ name: "tracks", parameters: Yard, function: function_ })];
    const runner = client.chat.completions.runTools({ model, messages, tools });
    return { final: await runner.finalContent(), roles: runner.messages.map((message) => message.role) };
  },
  async chatToolsStream() {
    const tools = [{ type: "function", function: { ...tool.function, parse: JSON.parse, function: (args) => `${args.yard} has 40` } }];
    const runner = client.chat.completions.runTools({ model, messages, tools, stream: true });
    const deltas = [];
    runner.on("tool_calls.function.arguments.delta", ({ arguments_delta }) => deltas.push(arguments_delta));
    return { final: await runner.finalContent(), deltas: deltas.join("") };
  },
  async responses() {
    const first = await client.responses.create({ model, input: "hi", instructions: "Be brief." });
    const second = await client.responses.create({ model, input: "more", previous_response_id: first.id });
    const kept = await client.responses.retrieve(first.id);
    const items = [];
    for await (const item of client.responses.inputItems.list(first.id)) items.push(item.type);
    await client.responses.delete(first.id);
    const gone = await client.responses.retrieve(first.id).catch((error) => error.constructor.name);
    return { texts: [first, second, kept].map((each) => each.output_text), types: first.output.map((each) => each.type), items, gone };
  },
  async responsesStream() {
    const types = [];
    let text = "";
    for await (const event of await client.responses.create({ model, input: "hi", stream: true })) {
      if (types.at(-1) !== event.type) types.push(event.type);
      if (event.type === "response.output_text.delta") text += event.delta;
    }
    const shaped = client.responses.stream({ model, input: "hi", text: { format: zodTextFormat(Wagon, "wagon") } });
    return { types, text, shaped: (await shaped.finalResponse()).output_parsed };
  },
  async responsesParse() {
    const answer = await client.responses.parse({ model, input: "hi", text: { format: zodTextFormat(Wagon, "wagon") } });
    return answer.output_parsed;
  },
  async responsesTools() {
    const tools = [{ type: "function", strict: false, name: "tracks", parameters }];
    const input = [{ role: "user", content: "hi" }];
    const first = await client.responses.create({ model, input, tools });
    const call = first.output.find((item) => item.type === "function_call");
    input.push(...first.output, { type: "function_call_output", call_id: call.call_id, output: "40" });
    const second = await client.responses.create({ model, input, tools });
    return { arguments: call.arguments, text: second.output_text };
  },
  async completions() {
    const whole = await client.completions.create({ model, prompt: "x" });
    let text = "";
    for await (const chunk of await client.completions.create({ model, prompt: "x", stream: true })) text += chunk.choices[0].text;
    return [whole.choices[0].text, text];
  },
  async models() {
    const ids = [];
    for await (const each of client.models.list()) ids.push(each.id);
    return [ids, (await client.models.retrieve(model)).id];
  },
  async errors() {
    const told = ({ constructor, status, code, param, requestID }) => [constructor.name, status, code, param, Boolean(requestID)];
    const failed = async (work) => work.then(() => null, told);
    const stranger = new OpenAI({ baseURL, apiKey: "wrong", maxRetries: 0 });
    return [
      await failed(client.chat.completions.create({ model, messages, top_p: 7 })),
      await failed(client.chat.completions.create({ model: "other", messages })),
      await failed(stranger.chat.completions.create({ model, messages })),
    ];
  },
  async abort() {
    const stream = await client.chat.completions.create({ model, messages, stream: true });
    for await (const _ of stream) break;
    return true;
  },
};

console.log(JSON.stringify(await scenarios[name]()));
