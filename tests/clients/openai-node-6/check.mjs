// What openai-node, 6.x and 7.x alike, sees of tally: one function a feature, one line of JSON a check.
import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import OpenAI from 'openai';
import { zodFunction, zodResponseFormat, zodTextFormat } from 'openai/helpers/zod';
import { VERSION } from 'openai/version';
import { z } from 'zod';

const { TALLY_URL, TALLY_KEY, TALLY_POOR_KEY, TALLY_STRATEGIES, TALLY_REAL_MODEL } = process.env;
const NAME = `openai-node-${VERSION.split('.')[0]}`;
const LIMIT_MS = 20_000;
const REAL_MS = 120_000;
const ASK = [{ role: 'user', content: 'What is 6 x 7?' }];
const PIXEL =
  'data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==';
const Product = z.object({ left: z.number(), right: z.number() });
const Sum = z.object({ answer: z.number(), sure: z.boolean(), steps: z.array(z.string()) });
const MULTIPLY = {
  type: 'function',
  function: { name: 'multiply', description: 'The product.', parameters: z.toJSONSchema(Product) },
};

// A client of one strategy; `tries` are the times at which it sent a request.
function client(strategy, more = {}) {
  const tries = [];
  const counted = (...args) => {
    tries.push(Date.now());
    return fetch(...args);
  };
  const base = { baseURL: `${TALLY_URL}/${strategy}/v1`, apiKey: TALLY_KEY, timeout: REAL_MS, fetch: counted };
  const made = new OpenAI({ ...base, ...more });
  const exact = !['off', 'adaptive'].includes(strategy);
  return Object.assign(made, { tries, scaled: strategy !== 'off', exact, strategy });
}

const chat = (api, model, more = {}, options) =>
  api.chat.completions.create({ model, messages: ASK, ...more }, options);

// One sample may be the one that is wrong, and so may a vote that stops early; a full one is not.
function is42(api, text) {
  assert.match(text ?? '', api.exact ? /^42$/ : /^4[12]$/);
}

function multiplied(call) {
  assert.equal(call.type, 'function');
  assert.equal(call.function.name, 'multiply');
  assert.ok(call.id);
  Product.parse(JSON.parse(call.function.arguments));
}

async function refused(promise, kind, status) {
  const error = await promise.then(
    () => assert.fail('no error came'),
    (caught) => caught,
  );
  assert.ok(error instanceof kind, `${error?.constructor?.name}: ${error?.message}`);
  if (status) assert.equal(error.status, status);
  return error;
}

// Chunks of a stream, checked as any reader may rely on them.
async function read(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  const choices = chunks.flatMap((chunk) => chunk.choices);
  assert.equal(choices[0].delta.role, 'assistant');
  assert.equal(choices.filter((choice) => choice.finish_reason).length, 1);
  assert.equal(new Set(chunks.map((chunk) => `${chunk.id} ${chunk.created} ${chunk.model}`)).size, 1);
  return { chunks, text: choices.map((choice) => choice.delta.content ?? '').join('') };
}

async function text(api) {
  const reply = await chat(api, 'text');
  is42(api, reply.choices[0].message.content);
  assert.equal(reply.object, 'chat.completion');
  assert.equal(reply.model, 'text');
  assert.equal(reply.choices[0].finish_reason, 'stop');
  assert.equal(reply.choices[0].message.refusal, null);
  assert.equal(reply.choices[0].logprobs, null);
  assert.ok(reply._request_id);
  assert.equal(reply.usage.total_tokens, reply.usage.prompt_tokens + reply.usage.completion_tokens);
  const { response } = await chat(api, 'text').withResponse();
  assert.equal(response.headers.get('x-tally-strategy'), api.strategy);
  assert.equal((await chat(api, 'long')).choices[0].finish_reason, 'length');
}

async function stream(api) {
  is42(api, (await read(await chat(api, 'text', { stream: true }))).text);
  const helper = api.chat.completions.stream({ model: 'text', messages: ASK });
  const pieces = [];
  helper.on('content', (piece) => pieces.push(piece));
  const final = await helper.finalChatCompletion();
  is42(api, final.choices[0].message.content);
  assert.equal(pieces.join(''), final.choices[0].message.content);
}

async function usageInStream(api) {
  const { chunks } = await read(await chat(api, 'text', { stream: true, stream_options: { include_usage: true } }));
  const last = chunks.at(-1);
  assert.deepEqual(last.choices, []);
  assert.ok(last.usage.completion_tokens >= 1 && last.usage.prompt_tokens >= 1);
  assert.ok(chunks.slice(0, -1).every((chunk) => !chunk.usage && chunk.choices.length));
}

async function tools(api) {
  const [choice] = (await chat(api, 'tool', { tools: [MULTIPLY] })).choices;
  assert.equal(choice.finish_reason, 'tool_calls');
  assert.equal(choice.message.content, null);
  assert.equal(choice.message.tool_calls.length, 1);
  multiplied(choice.message.tool_calls[0]);
}

async function toolsStreamed(api) {
  const asked = { model: 'tool', messages: ASK, tools: [MULTIPLY] };
  const { chunks } = await read(await api.chat.completions.create({ ...asked, stream: true }));
  const pieces = chunks.flatMap((chunk) => chunk.choices.flatMap((choice) => choice.delta.tool_calls ?? []));
  assert.ok(pieces.every((piece) => piece.index === 0));
  Product.parse(JSON.parse(pieces.map((piece) => piece.function?.arguments ?? '').join('')));
  const message = await api.chat.completions.stream(asked).finalMessage();
  multiplied(message.tool_calls[0]);
}

async function forcedTool(api) {
  const other = { type: 'function', function: { name: 'other', parameters: { type: 'object', properties: {} } } };
  const reply = await chat(api, 'tool', {
    tools: [other, MULTIPLY],
    tool_choice: { type: 'function', function: { name: 'multiply' } },
  });
  multiplied(reply.choices[0].message.tool_calls[0]);
  const parsed = await api.chat.completions.parse({
    model: 'tool',
    messages: ASK,
    tools: [zodFunction({ name: 'multiply', parameters: Product })],
    tool_choice: 'required',
  });
  Product.parse(parsed.choices[0].message.tool_calls[0].function.parsed_arguments);
}

async function toolLoop(api) {
  for (const streamed of [false, true]) {
    const seen = [];
    const run = (asked) => {
      seen.push(asked);
      return asked.left * asked.right;
    };
    const tool = zodFunction({ name: 'multiply', parameters: Product, function: run });
    const runner = api.chat.completions.runTools({ model: 'tool', messages: ASK, tools: [tool], stream: streamed });
    assert.match(await runner.finalContent(), /^4[12]$/);
    assert.equal(seen.length, 1);
    assert.deepEqual(
      runner.messages.map((message) => message.role),
      ['user', 'assistant', 'tool', 'assistant'],
    );
  }
}

async function structured(api) {
  const free = await chat(api, 'json', { response_format: { type: 'json_object' } });
  if (api.scaled) JSON.parse(free.choices[0].message.content);
  const asked = { model: 'json', messages: ASK, response_format: zodResponseFormat(Sum, 'sum') };
  const reply = await valid(api, () => api.chat.completions.parse(asked));
  Sum.parse(reply.choices[0].message.parsed);
}

async function structuredStreamed(api) {
  const asked = { model: 'json', messages: ASK, response_format: zodResponseFormat(Sum, 'sum') };
  const reply = await valid(api, () => api.chat.completions.stream(asked).finalChatCompletion());
  Sum.parse(reply.choices[0].message.parsed);
}

// One sample may be the broken one, and the next is not; a vote has no broken ones.
async function valid(api, ask) {
  try {
    return await ask();
  } catch (error) {
    if (api.scaled) throw error;
    return ask();
  }
}

async function n(api) {
  const reply = await chat(api, 'choices', { n: 3 });
  assert.deepEqual(
    reply.choices.map((choice) => choice.index),
    [0, 1, 2],
  );
  is42(api, reply.choices[0].message.content);
  const helper = api.chat.completions.stream({ model: 'choices', messages: ASK, n: 2 });
  const final = await helper.finalChatCompletion();
  assert.deepEqual(
    final.choices.map((choice) => choice.finish_reason),
    ['stop', 'stop'],
  );
}

async function logprobs(api) {
  const asked = { logprobs: true, top_logprobs: 2 };
  const [choice] = (await chat(api, 'logprobs', asked)).choices;
  const joined = (made) => made.logprobs.content.map((entry) => entry.token).join('');
  assert.equal(joined(choice), choice.message.content);
  assert.ok(choice.logprobs.content.every((entry) => Number.isFinite(entry.logprob)));
  const helper = api.chat.completions.stream({ model: 'logprobs', messages: ASK, ...asked });
  const [streamed] = (await helper.finalChatCompletion()).choices;
  assert.equal(joined(streamed), streamed.message.content);
}

async function seedAndStop(api) {
  const reply = await chat(api, 'text', { seed: 7, stop: ['\n'], max_completion_tokens: 50, temperature: 0.8 });
  is42(api, reply.choices[0].message.content);
}

async function images(api) {
  const content = [
    { type: 'text', text: 'What number is this?' },
    { type: 'image_url', image_url: { url: PIXEL, detail: 'low' } },
  ];
  const reply = await chat(api, 'image', { messages: [{ role: 'user', content }] });
  assert.equal(reply.choices[0].message.content, '42');
}

async function reasoning(api) {
  const reply = await chat(api, 'reasons', { reasoning_effort: 'low' });
  is42(api, reply.choices[0].message.content);
  assert.ok(reply.choices[0].message.reasoning_content);
  const { chunks } = await read(await chat(api, 'reasons', { stream: true }));
  assert.ok(chunks.some((chunk) => chunk.choices[0]?.delta.reasoning_content));
}

async function refusal(api) {
  const { message } = (await chat(api, 'refuses')).choices[0];
  assert.ok(message.refusal);
  assert.ok(!message.content);
  const streamed = await api.chat.completions.stream({ model: 'refuses', messages: ASK }).finalMessage();
  assert.equal(streamed.refusal, message.refusal);
}

async function unknownField(api) {
  is42(api, (await chat(api, 'text', { some_new_field: { deep: [1] } })).choices[0].message.content);
}

async function tallyField(api) {
  const reply = await chat(api, 'text', { tally: { max_samples: 4, detail: true } });
  assert.equal(reply.tally.strategy, api.strategy);
  assert.equal(reply.tally.draws.length, reply.tally.samples);
  const { chunks } = await read(await chat(api, 'text', { stream: true, tally: { progress: true } }));
  assert.ok(chunks.at(-1).tally.samples >= 1);
}

async function error400(api) {
  const error = await refused(chat(api, 'rejects'), OpenAI.BadRequestError, 400);
  assert.ok(error.code && error.param && error.type && error.requestID);
  assert.equal(api.tries.length, 1);
  await refused(chat(api, 'rejects', { stream: true }), OpenAI.BadRequestError, 400);
  const own = await refused(chat(api, 'text', { n: 0 }), OpenAI.BadRequestError, 400);
  assert.equal(own.param, 'n');
}

async function error402(api) {
  const poor = client(api.strategy, { apiKey: TALLY_POOR_KEY });
  for (const streamed of [false, true]) {
    poor.tries.length = 0;
    const error = await refused(chat(poor, 'text', { stream: streamed }), OpenAI.APIError, 402);
    assert.equal(error.code, 'budget_exceeded');
    assert.equal(poor.tries.length, 1);
  }
}

async function error404(api) {
  const error = await refused(chat(api, 'no-such-model'), OpenAI.NotFoundError, 404);
  assert.equal(error.code, 'model_not_found');
  await refused(api.get('/no/such/path'), OpenAI.NotFoundError, 404);
}

async function retryAfter429(api) {
  const messages = [{ role: 'user', content: `What is 6 x 7? (${api.strategy}, openai-node ${VERSION})` }];
  is42(api, (await chat(api, 'limited', { messages })).choices[0].message.content);
  // what is scaled waits in the proxy, so that the client need not
  assert.equal(api.tries.length, api.scaled ? 1 : 2);
  assert.ok(Date.now() - api.tries[0] >= 900, 'nobody waited as told');
}

async function upstream5xx(api) {
  const once = client(api.strategy, { maxRetries: 1 });
  const error = await refused(chat(once, 'broken'), OpenAI.InternalServerError, 500);
  assert.equal(typeof error.error, 'object');
  assert.equal(once.tries.length, 2);
}

async function cancel(api) {
  const leave = new AbortController();
  const asked = chat(api, 'endless', {}, { signal: leave.signal });
  setTimeout(() => leave.abort(), 100);
  await refused(asked, OpenAI.APIUserAbortError);
  const helper = api.chat.completions.stream({ model: 'endless', messages: ASK });
  setTimeout(() => helper.abort(), 100);
  await refused(helper.done(), OpenAI.APIUserAbortError);
  await idle();
}

// The proxy has let go of whatever nobody waits for, within a second.
async function idle() {
  for (const end = Date.now() + 1000; ; await sleep(20)) {
    const metrics = await (await fetch(`${TALLY_URL}/metrics`)).text();
    if (/^tally_requests_in_flight 0/m.test(metrics)) return;
    assert.ok(Date.now() < end, 'the proxy goes on with what nobody waits for');
  }
}

async function timeout(api) {
  const hasty = client(api.strategy, { timeout: 100, maxRetries: 1 });
  await refused(chat(hasty, 'slow'), OpenAI.APIConnectionTimeoutError);
  assert.equal(hasty.tries.length, 2);
}

async function models(api) {
  const ids = [];
  for await (const model of api.models.list()) ids.push(model.id);
  assert.ok(ids.includes('text') && ids.includes('embed'));
  assert.equal((await api.models.retrieve('text')).id, 'text');
  await refused(api.models.retrieve('no-such-model'), OpenAI.NotFoundError, 404);
}

async function completions(api) {
  const asked = { model: 'text', prompt: 'What is 6 x 7?', max_tokens: 20 };
  const reply = await api.completions.create(asked);
  is42(api, reply.choices[0].text);
  assert.equal(reply.object, 'text_completion');
  const pieces = [];
  for await (const chunk of await api.completions.create({ ...asked, stream: true })) pieces.push(chunk.choices[0].text);
  is42(api, pieces.join(''));
}

const TOOL = { type: 'function', name: 'multiply', parameters: MULTIPLY.function.parameters, strict: false };

async function responses(api) {
  const reply = await api.responses.create({ model: 'text', input: 'What is 6 x 7?', instructions: 'Be short.' });
  is42(api, reply.output_text);
  assert.equal(reply.status, 'completed');
  assert.ok(reply.usage.output_tokens >= 1);
  const asked = { model: 'tool', tools: [TOOL], store: false };
  const input = [{ role: 'user', content: 'What is 6 x 7?' }];
  const called = await api.responses.create({ ...asked, input });
  const call = called.output.find((item) => item.type === 'function_call');
  Product.parse(JSON.parse(call.arguments));
  input.push(...called.output, { type: 'function_call_output', call_id: call.call_id, output: '42' });
  assert.match((await api.responses.create({ ...asked, input })).output_text, /^4[12]$/);
  const format = { model: 'json', input: 'What is 6 x 7?', text: { format: zodTextFormat(Sum, 'sum') } };
  Sum.parse((await valid(api, () => api.responses.parse(format))).output_parsed);
  const stored = api.responses.create({ model: 'text', input: 'Hi', previous_response_id: 'resp_1' });
  await refused(stored, OpenAI.BadRequestError, 400);
}

async function responsesStreamed(api) {
  const helper = api.responses.stream({ model: 'text', input: 'What is 6 x 7?' });
  const types = [];
  const pieces = [];
  helper.on('event', (event) => types.push(event.type));
  helper.on('response.output_text.delta', (event) => pieces.push(event.delta));
  const final = await helper.finalResponse();
  is42(api, final.output_text);
  assert.equal(pieces.join(''), final.output_text);
  assert.deepEqual([types[0], types.at(-1)], ['response.created', 'response.completed']);
  const called = await api.responses
    .stream({ model: 'tool', input: 'What is 6 x 7?', tools: [TOOL], store: false })
    .finalResponse();
  const call = called.output.find((item) => item.type === 'function_call');
  Product.parse(JSON.parse(call.arguments));
}

async function embeddings(api) {
  // unless told otherwise it asks for base64, and decodes that
  for (const encoding of [{}, { encoding_format: 'float' }]) {
    const reply = await api.embeddings.create({ model: 'embed', input: ['six', 'seven'], ...encoding });
    assert.deepEqual(
      reply.data.map((item) => item.index),
      [0, 1],
    );
    assert.ok(reply.data.every((item) => item.embedding.length && item.embedding.every(Number.isFinite)));
  }
}

async function realText(api) {
  const reply = await chat(api, TALLY_REAL_MODEL, { max_completion_tokens: 24, temperature: 0.8 });
  assert.ok(reply.choices[0].message.content.trim());
}

async function realStream(api) {
  const asked = { max_completion_tokens: 24, temperature: 0.8, stream: true };
  const pieces = [];
  for await (const chunk of await chat(api, TALLY_REAL_MODEL, asked)) {
    pieces.push(chunk.choices[0]?.delta.content ?? '');
  }
  assert.ok(pieces.join('').trim());
}

const CHECKS = {
  text,
  stream,
  'usage in stream': usageInStream,
  tools,
  'tools streamed': toolsStreamed,
  'forced tool': forcedTool,
  'tool loop': toolLoop,
  structured,
  'structured streamed': structuredStreamed,
  n,
  logprobs,
  'seed and stop': seedAndStop,
  images,
  reasoning,
  refusal,
  'unknown field': unknownField,
  'tally field': tallyField,
  'error 400': error400,
  'error 402 not retried': error402,
  'error 404': error404,
  'retry after 429': retryAfter429,
  'upstream 5xx': upstream5xx,
  cancel,
  timeout,
  models,
  completions,
  responses,
  'responses streamed': responsesStreamed,
  embeddings,
  ...(TALLY_REAL_MODEL && { 'real text': realText, 'real stream': realStream }),
};

for (const strategy of TALLY_STRATEGIES.split(',')) {
  for (const [feature, check] of Object.entries(CHECKS)) {
    const told = await Promise.race([
      check(client(strategy)).then(
        () => null,
        (error) => `${error?.message ?? error}`.split('\n')[0],
      ),
      sleep(feature.startsWith('real ') ? REAL_MS : LIMIT_MS, 'it took too long', { ref: false }),
    ]);
    const line = { client: NAME, version: VERSION, strategy, feature, ok: told === null, told: told ?? '' };
    console.log(JSON.stringify(line));
  }
}
