import OpenAI from "openai";
import { Ollama } from "ollama";
const [url, key, picture, question, broken, ...forms] = process.argv.slice(2);
const [form, long] = forms.map((each) => JSON.parse(each));
const openai = new OpenAI({ baseURL: url + "/v1", apiKey: key, maxRetries: 0 });
const content = [{ type: "image_url", image_url: { url: "data:image/png;base64," + picture } },
                 { type: "text", text: question }];
const asked = { model: "miniature", messages: [{ role: "user", content }] };
const found = {};
found.models = (await openai.models.list()).data.map((each) => each.id);
found.whole = (await openai.chat.completions.create(asked)).choices[0].message.content;
found.pieces = "";
for await (const each of await openai.chat.completions.create({ ...asked, stream: true }))
  found.pieces += each.choices[0].delta.content ?? "";
found.helper = await openai.chat.completions.stream(asked).finalContent();
found.response = (await openai.responses.create({ model: "miniature", input: question })).status;
try { await openai.chat.completions.create({ ...asked, model: "gpt" }); }
catch (error) { found.missing = [error.status, error.message]; }
const say = async (more) => (await openai.chat.completions.create({ ...asked, ...more })).choices[0].message.content;
const next = { role: "user", content: "[vqa] how many apples are there?" };
found.next = await say({ messages: [...asked.messages, { role: "assistant", content: found.whole }, next] });
found.form = await say({ response_format: form });
found.stopped = await say({ stop: " " + found.whole.split(" ")[1] });
for await (const _ of await openai.chat.completions.create({ ...asked, response_format: {
  type: "json_schema", json_schema: { name: "long", schema: long } }, max_tokens: 1900, stream: true })) break;
const headers = { Authorization: "Bearer " + key };
const ollama = new Ollama({ host: url, headers });
found.tags = (await ollama.list()).models.map((each) => each.name);
const prompt = { model: "miniature", prompt: question, images: [picture] };
found.generated = (await ollama.generate(prompt)).response;
found.lines = "";
for await (const each of await ollama.generate({ ...prompt, stream: true }))
  found.lines += each.response;
const left = await ollama.generate({ ...prompt, format: long, options: { num_predict: 1900 }, stream: true });
for await (const _ of left) { left.abort(); break; }
try { await ollama.generate({ ...prompt, model: "llava" }); }
catch (error) { found.absent = [error.status_code, error.message]; }
try { await new Ollama({ host: url }).list(); }
catch (error) { found.locked = error.status_code; }
try { await ollama.generate({ ...prompt, images: [broken] }); }
catch (error) { found.broken = [error.status_code, error.message]; }
console.log(JSON.stringify(found));
