//! The oracle of every JSON message: what is read can be written, and is read again as the same.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Reads `data` as a `T`; what it wrote and read again must write the same. `None` if it is no `T`.
pub fn round_trip<T: Serialize + DeserializeOwned>(data: &[u8]) -> Option<T> {
    let first: T = serde_json::from_slice(data).ok()?;
    let written = serde_json::to_vec(&first).expect("what was read can be written");
    let again: T = serde_json::from_slice(&written).expect("what was written can be read");
    assert_eq!(shape(&first), shape(&again));
    Some(first)
}

/// The value, with every fraction as its nearest `f32`: JSON numbers may lose their last bit on each way.
fn shape(value: &impl Serialize) -> Value {
    let mut value = serde_json::to_value(value).expect("it was written before");
    blur(&mut value);
    value
}

fn blur(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(blur),
        Value::Object(fields) => fields.values_mut().for_each(blur),
        Value::Number(number) if number.is_f64() => {
            *value = Value::from(number.as_f64().unwrap_or_default() as f32 as f64);
        }
        _ => {}
    }
}
