//! The write policy: rules, explanations, what-if.

use super::{
    Admin, AdminResult, NewRule, PolicyExplanation, PolicyQuestion, RuleRecord, SimulatedChange,
    Simulation,
};

impl Admin {
    /// All rules, most specific first.
    pub async fn rules(&self) -> AdminResult<Vec<RuleRecord>> {
        todo!()
    }

    /// Adds a rule.
    pub async fn add_rule(&self, rule: NewRule) -> AdminResult<RuleRecord> {
        todo!()
    }

    /// Removes a rule.
    pub async fn remove_rule(&self, id: u64) -> AdminResult<()> {
        todo!()
    }

    /// Which rules were considered for one writer and path, why each matched or not, and what comes out.
    pub async fn explain_policy(&self, question: PolicyQuestion) -> AdminResult<PolicyExplanation> {
        todo!()
    }

    /// What other rules would change for the present holders and waiters, and for the questions asked.
    pub async fn simulate_policy(&self, what_if: Simulation) -> AdminResult<Vec<SimulatedChange>> {
        todo!()
    }
}
