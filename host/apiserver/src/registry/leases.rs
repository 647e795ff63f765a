//! Leases.

use super::json::text;
use super::{AGE_COLUMN, Column, Context, NAME_COLUMN, Strategy, age_cell, at, name_cell};
use orlop_apimachinery::field::{Path, invalid};
use orlop_apimachinery::status::Cause;
use serde_json::Value;

/// The strategy of leases.
#[derive(Debug)]
pub(super) struct Leases;

impl Strategy for Leases {
    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn validate(&self, _cx: &Context<'_>, lease: &Value) -> Vec<Cause> {
        let mut faults = Vec::new();
        let spec = Path::new("spec");
        if let Some(seconds) = at(lease, &["spec", "leaseDurationSeconds"]).and_then(Value::as_i64)
            && seconds <= 0
        {
            faults.push(invalid(&spec.child("leaseDurationSeconds"), seconds, "must be greater than 0"));
        }
        if let Some(transitions) = at(lease, &["spec", "leaseTransitions"]).and_then(Value::as_i64)
            && transitions < 0
        {
            let detail = "must be greater than or equal to 0";
            faults.push(invalid(&spec.child("leaseTransitions"), transitions, detail));
        }
        faults
    }

    fn columns(&self) -> &'static [Column] {
        const { &[NAME_COLUMN, Column::new("Holder", "Identity of the holder of a current lease."), AGE_COLUMN] }
    }

    fn cells(&self, cx: &Context<'_>, lease: &Value) -> Vec<Value> {
        vec![name_cell(lease), text(lease, &["spec", "holderIdentity"]).into(), age_cell(cx, lease)]
    }
}
