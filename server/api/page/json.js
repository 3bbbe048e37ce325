// JSON whose numbers stay what they were: seeds have up to 64 bits, and 5.0 is not 5. Knows nothing of workflows.

/** A number as it was written. */
export class Written {
  constructor(source) {
    this.source = source;
  }

  get isWhole() {
    return /^-?\d+$/.test(this.source);
  }

  /** The number to count with; whole ones that JavaScript can't hold are BigInts. */
  get value() {
    const number = Number(this.source);
    return this.isWhole && !Number.isSafeInteger(number) ? BigInt(this.source) : number;
  }
}

/** Returns the value in a JSON text; whole numbers beyond 53 bits are BigInts. */
export function readJson(text) {
  return JSON.parse(text, (_, value, context) =>
    typeof value === "number" && !Number.isSafeInteger(value) ? new Written(context?.source ?? String(value)).value : value,
  );
}

/** Returns the value in a JSON text, with every number as a Written. */
export function readWritten(text) {
  return JSON.parse(text, (_, value, context) =>
    typeof value === "number" ? new Written(context?.source ?? String(value)) : value,
  );
}

/** Returns a value as JSON. */
export function writeJson(value) {
  if (typeof value === "bigint") return value.toString();
  if (value instanceof Written) return value.source;
  if (Array.isArray(value)) return `[${value.map(writeJson).join(",")}]`;
  if (value !== null && typeof value === "object") {
    return `{${Object.entries(value).map(([key, item]) => `${JSON.stringify(key)}:${writeJson(item)}`).join(",")}}`;
  }
  return JSON.stringify(value);
}

/** Returns a value in which every Written is a plain number. */
export function plain(value) {
  if (value instanceof Written) return value.value;
  if (Array.isArray(value)) return value.map(plain);
  if (value !== null && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, plain(item)]));
  }
  return value;
}
